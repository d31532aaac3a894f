"""Files that appear whole or not at all."""

import os

import pytest

from utils.files import write_text, written_whole


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_is_replaced_whole_and_has_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    path = tmp_path / "a.txt"
    path.write_text("before")
    before = os.umask(umask)
    try:
        write_text(path, "caf\u00e9\n")
    finally:
        os.umask(before)
    assert path.read_bytes() == "caf\u00e9\n".encode()
    assert path.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()], ids=repr)
def test_what_fails_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail_half_way():
        with written_whole(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail_half_way()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
