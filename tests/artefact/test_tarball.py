"""Tarballs: deterministic to write, readable by TensorFlow Hub, safe to unpack."""

import gzip
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import memory
import numpy as np
import pytest

from utils.artefact import tarball
from utils.artefact.tarball import extract_tarball, hash_tarball, write_tarball
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


def make_tarball(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, contents in members:
            member.size = len(contents)
            tar.addfile(member, io.BytesIO(contents))
    return path


def member(name: str, contents: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, contents


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_same_folder_gives_the_same_bytes_whatever_its_times_modes_and_order(folder, tmp_path):
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


def test_the_tarball_names_nobody_and_no_time_and_folders_before_what_is_in_them(folder, tmp_path):
    path = write_tarball(folder, tmp_path / "a.tar.gz")
    header = path.read_bytes()[:10]
    assert header[3] == 0  # no file name, comment or extra field
    assert struct.unpack("<I", header[4:8]) == (0,)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert {(m.isdir(), m.mode) for m in members} == {(True, 0o755), (False, 0o644)}
    root = "assets assets.extra assets.extra/labels.tsv saved_model.pb variables"
    variables = "variables/variables.data-00000-of-00001 variables/variables.index"
    assert [m.name for m in members] == [*root.split(), *variables.split()]


def test_what_is_unpacked_is_what_was_packed(folder, tmp_path):
    path = write_tarball(folder, tmp_path / "a.tar.gz")
    unpacked = extract_tarball(path, tmp_path / "deep" / "unpacked")
    assert hash_files(unpacked) == hash_files(folder) == hash_tarball(path)
    assert (unpacked / "assets").is_dir()
    assert unpacked.stat().st_mode & 0o777 == 0o755
    assert left_in(tmp_path / "deep") == ["unpacked"]


def test_the_system_s_tar_and_gzip_read_it_and_what_they_pack_is_read(folder, tmp_path):
    path = write_tarball(folder, tmp_path / "a.tar.gz")
    subprocess.run(["gzip", "--test", path], check=True)
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-xzf", path, "-C", tmp_path / "unpacked"], check=True)
    # With leading dots; and macOS may add a file "._name" of its own beside each.
    command = ["tar", "-czf", tmp_path / "b.tar.gz", "-C", tmp_path / "unpacked", "."]
    subprocess.run(command, env=os.environ | {"COPYFILE_DISABLE": "1"}, check=True)
    assert hash_files(extract_tarball(tmp_path / "b.tar.gz", tmp_path / "again")) == hash_files(folder)


def test_packing_holds_no_file_in_memory(tmp_path):
    (tmp_path / "model").mkdir()
    with (tmp_path / "model" / "saved_model.pb").open("wb") as file:
        for _ in range(40):
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


SPARSE = {"major": "1", "minor": "0", "name": "saved_model.pb", "realsize": "1000000"}
SPARSE = {f"GNU.sparse.{key}": value for key, value in SPARSE.items()}
BAD_MEMBERS = {
    "absolute": [member("/tmp/absolute")],
    "climbing": [member("../climbing")],
    "climbing inside": [member("variables/../../climbing")],
    "backslash": [member("..\\backslash")],
    "drive": [member("C:drive")],
    "no name": [member("", b"x")],
    "control character": [member("saved\nmodel.pb")],
    "symbolic link": [member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "link then file through it": [
        member("link", b"", type=tarfile.SYMTYPE, linkname=".."),
        member("link/escaped"),
    ],
    "hard link": [
        member("saved_model.pb"),
        member("link", b"", type=tarfile.LNKTYPE, linkname="saved_model.pb"),
    ],
    "character device": [member("device", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("pipe", b"", type=tarfile.FIFOTYPE)],
    "twice": [member("saved_model.pb", b"a"), member("saved_model.pb", b"b")],
    "twice by another spelling": [member("saved_model.pb", b"a"), member("./saved_model.pb", b"b")],
    "sparse, as GNU writes it": [member("saved_model.pb", b"end", type=tarfile.GNUTYPE_SPARSE)],
    "sparse, as POSIX writes it": [
        member("saved_model.pb", b"1\n0\n3\n".ljust(512, b"\0") + b"end", pax_headers=SPARSE)
    ],
    "file as folder": [member("variables"), member("variables/variables.index")],
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_a_bad_member_is_refused_by_name_and_nothing_is_left(tmp_path, case):
    path = make_tarball(tmp_path / "bad.tar.gz", *BAD_MEMBERS[case])
    outside = left_in(tmp_path.parent)
    with pytest.raises(PackagingError, match=r"bad\.tar\.gz, member ") as caught:
        extract_tarball(path, tmp_path / "unpacked")
    assert repr(BAD_MEMBERS[case][-1][0].name) in str(caught.value) or "link" in case
    assert left_in(tmp_path) == ["bad.tar.gz"]
    assert left_in(tmp_path.parent) == outside
    if case != "file as folder":  # which only unpacking notices
        with pytest.raises(PackagingError, match=r"bad\.tar\.gz, member "):
            hash_tarball(path)


def damaged(whole: bytes) -> dict[str, bytes]:
    plain = gzip.decompress(whole)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    return {
        "empty": b"",
        "page": b"<!DOCTYPE html><html>Not Found</html>",
        "not compressed": plain,
        "cut in half": whole[: len(whole) // 2],
        "without its last byte": whole[:-1],
        "without its checksum": whole[:-8],
        "one byte changed": bytes(flipped),
        "compressed, no tar": gzip.compress(b"not a tarball" * 100),
        "tar cut inside a member": gzip.compress(plain[: len(plain) // 2]),
        "no members": gzip.compress(bytes(10_240)),
    }


@pytest.mark.parametrize("case", damaged(gzip.compress(b"")))
def test_a_damaged_tarball_is_an_error_that_names_it_and_nothing_is_left(folder, tmp_path, case):
    path = write_tarball(folder, tmp_path / "bad.tar.gz")
    path.write_bytes(damaged(path.read_bytes())[case])
    with pytest.raises(PackagingError, match=r"bad\.tar\.gz"):
        extract_tarball(path, tmp_path / "unpacked")
    with pytest.raises(PackagingError, match=r"bad\.tar\.gz"):
        hash_tarball(path)
    assert left_in(tmp_path) == ["bad.tar.gz", "model"]


def test_a_bomb_is_stopped_long_before_it_is_unpacked(tmp_path):
    path = make_tarball(tmp_path / "bomb.tar.gz", member("variables", bytes(300_000_000)))
    with pytest.raises(PackagingError, match=r"bomb\.tar\.gz, member 'variables': it unpacks to more than 67,108,864"):
        extract_tarball(path, tmp_path / "unpacked")
    assert left_in(tmp_path) == ["bomb.tar.gz"]


def test_a_huge_header_is_stopped_too(tmp_path):
    """A comment in a PAX header is read into memory whole, so it counts as well."""
    path = make_tarball(tmp_path / "a.tar.gz", member("saved_model.pb", pax_headers={"comment": "x" * 80_000_000}))
    with pytest.raises(PackagingError, match="unpacks to more than"):
        extract_tarball(path, tmp_path / "unpacked")


@pytest.mark.parametrize(
    ("limit", "value", "said"), [("MAX_MEMBERS", 10, "10 members"), ("MAX_BYTES", 5000, "5,000 b")]
)
def test_more_members_or_bytes_than_allowed_are_refused(tmp_path, monkeypatch, limit, value, said):
    path = make_tarball(tmp_path / "a.tar.gz", *[member(f"file{i}", bytes(1000)) for i in range(11)])
    with monkeypatch.context() as patch:
        patch.setattr(tarball, limit, value)
        with pytest.raises(PackagingError, match=said):
            extract_tarball(path, tmp_path / "unpacked")
    assert left_in(tmp_path) == ["a.tar.gz"]
    monkeypatch.setattr(tarball, limit, {"MAX_MEMBERS": 11, "MAX_BYTES": 40_000}[limit])
    extract_tarball(path, tmp_path / "unpacked")


def test_a_folder_that_holds_something_is_not_overwritten(folder, tmp_path):
    path = write_tarball(folder, tmp_path / "a.tar.gz")
    (tmp_path / "mine").mkdir()
    extract_tarball(path, tmp_path / "mine")  # still empty
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(PackagingError, match="mine already exists"):
        extract_tarball(path, tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
