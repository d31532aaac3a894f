"""Tarballs: deterministic to write, readable by TensorFlow Hub, safe to unpack."""

import io
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import memory
import numpy as np
import pytest

from utils.artefact.tarball import Packing, extract_tarball, hash_tarball, write_tarball
from utils.errors import PackagingError
from utils.files import hash_files

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path) -> Path:
    """What a SavedModel looks like, with an empty folder and a name that sorts oddly."""
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "assets.extra").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph" * 1000)
    weights = np.random.default_rng(0).normal(size=300_000).astype(np.float32)
    (folder / "variables" / "variables.data-00000-of-00001").write_bytes(weights.tobytes())
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "assets.extra" / "labels.tsv").write_text("0\ttench\n")
    return folder


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_tarball_depends_on_paths_and_contents_alone_and_names_nobody(folder, tmp_path):
    first = write_tarball(folder, tmp_path / "first.tar.gz").read_bytes()
    copy = tmp_path / "elsewhere" / "copy"
    paths = list(folder.rglob("*"))
    random.Random(1).shuffle(paths)
    for path in paths:
        target = copy / path.relative_to(folder)
        (target if path.is_dir() else target.parent).mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
            target.chmod(0o600)
            os.utime(target, (1, 1))
    assert write_tarball(copy, tmp_path / "second.tar.gz").read_bytes() == first
    assert first[3] == 0  # in gzip's header: no file name, comment or extra field
    assert first[4:8] == bytes(4)  # and no time
    with tarfile.open(tmp_path / "first.tar.gz") as tar:
        members = tar.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert {(m.isdir(), m.mode) for m in members} == {(True, 0o755), (False, 0o644)}
    assert [m.name for m in members][:3] == ["assets", "assets.extra", "assets.extra/labels.tsv"]


def test_what_is_packed_is_unpacked_here_and_by_the_system_s_tar_and_what_that_packs_too(folder, tmp_path):
    path = write_tarball(folder, tmp_path / "a.tar.gz")
    unpacked = extract_tarball(path, tmp_path / "deep" / "unpacked")
    assert hash_files(unpacked) == hash_files(folder) == hash_tarball(path)
    assert (unpacked / "assets").is_dir()  # though nothing is in it
    assert unpacked.stat().st_mode & 0o777 == 0o755
    assert left_in(tmp_path / "deep") == ["unpacked"]
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path / "unpacked"], check=True)
    # With leading dots; and macOS may add a file "._name" of its own beside each.
    command = ["tar", "-czf", tmp_path / "b.tar.gz", "-C", tmp_path / "unpacked", "."]
    subprocess.run(command, env=os.environ | {"COPYFILE_DISABLE": "1"}, check=True)
    assert hash_files(extract_tarball(tmp_path / "b.tar.gz", tmp_path / "again")) == hash_files(folder)


@pytest.mark.parametrize("mode", ["r:gz", "r|gz", "r|*"])  # the last is TF Hub's
def test_what_is_appended_later_is_read_by_every_client_and_the_tarball_is_complete_before_and_after(
    folder, tmp_path, mode
):
    path, packing = tmp_path / "a.tar.gz", Packing()
    write_tarball(folder, path, packing)
    before = hash_files(folder)
    assert hash_tarball(path) == before
    for text in ("first", "second and longer"):  # whatever was there before
        (folder / "added").mkdir(exist_ok=True)
        name = f"added/{text[:5]}"
        (folder / name).write_text(text)
        with path.open("r+b") as file:
            packing.append(file, folder, ["added", name] if text == "first" else [name])
    with tarfile.open(path, mode) as tar:
        names = [member.name for member in tar]
    assert names[-3:] == ["added", "added/first", "added/secon"]
    assert hash_tarball(path) == hash_files(folder)
    listed = subprocess.run(["tar", "-tzf", path], check=True, capture_output=True, text=True)
    assert [line.rstrip("/") for line in listed.stdout.splitlines()] == names
    assert listed.stderr == ""
    assert subprocess.run(["gzip", "--test", path], check=True, capture_output=True).stderr == b""


def test_packing_holds_no_file_in_memory(tmp_path):
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "saved_model.pb").open("wb") as file:
        for _ in range(15):
            file.write(os.urandom(5_000_000))
    code = (
        f"{memory.PEAK}\nfrom utils.artefact.tarball import *\n"
        "before = peak(); write_tarball(*sys.argv[1:3]); extract_tarball(*sys.argv[2:4])\n"
        "print(peak() - before)"
    )
    arguments = [tmp_path / "model", tmp_path / "a.tar.gz", tmp_path / "unpacked"]
    output = subprocess.check_output([sys.executable, "-c", code, *arguments], cwd=ROOT)
    assert int(output) < 20_000_000


@pytest.mark.parametrize("name", ["absent", "empty", "linked"])
def test_a_folder_that_is_missing_or_empty_or_holds_a_link_is_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "more").symlink_to("/etc/passwd")
    with pytest.raises(PackagingError, match=name):
        write_tarball(tmp_path / name, tmp_path / "a.tar.gz")
    assert left_in(tmp_path) == ["empty", "linked"]


def test_tarball_whose_file_is_the_folder_of_another_is_refused_and_leaves_nothing(tmp_path):
    path = tmp_path / "bad.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in ("variables", "variables/variables.index"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(PackagingError, match=r"bad\.tar\.gz, member 'variables/variables.index'"):
        extract_tarball(path, tmp_path / "unpacked")
    assert left_in(tmp_path) == ["bad.tar.gz"]


def test_a_folder_that_holds_something_is_not_overwritten(folder, tmp_path):
    path = write_tarball(folder, tmp_path / "a.tar.gz")
    (tmp_path / "mine").mkdir()
    extract_tarball(path, tmp_path / "mine")  # still empty
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(PackagingError, match="mine already exists"):
        extract_tarball(path, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
