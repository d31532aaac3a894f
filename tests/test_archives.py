"""Hostile and damaged archives: no reader of any room takes one, and each says which file it is in its own error."""

import gzip
import io
import re
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny

from utils import archives
from utils.archives import ArchiveError, Refusal, open_zip, read_member, read_tarball
from utils.artefact.lite_file import unpack_lite
from utils.artefact.tarball import extract_tarball, hash_tarball
from utils.errors import CheckpointError, EvaluationError, PackagingError
from utils.families.variants import get_variant
from utils.keras_models import archive as keras_archive
from utils.parity.golden import Golden, golden_bytes, read_golden

GOLDEN = Path(__file__).parent / "data" / "golden"


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members, compression=zipfile.ZIP_STORED) -> bytes:
    """The bytes of a zip file of (name, contents) pairs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


SMALL_GOLDEN = golden_bytes(
    Golden(
        np.ones((1, 2, 2, 3), np.int8), np.ones((2, 2, 3), np.int8), np.array([4, 4], np.int32), np.ones((1, 3), "f4")
    )
)
# By reader: members of a good file, what reads the file at a path, the room's error, and whether names are fixed.
READERS = {
    "torch": (
        unzipped((GOLDEN / "convmixer_tiny.timm.pth.tar").read_bytes()),
        lambda path: tiny.read(path, get_variant("convmixer_tiny")),
        CheckpointError,
        False,
    ),
    "npz": (
        unzipped((GOLDEN / "mixer_tiny.npz").read_bytes()),
        lambda path: tiny.read(path, get_variant("mixer_tiny")),
        CheckpointError,
        False,
    ),
    "keras": (
        {
            keras_archive.METADATA: b'{"record": {}}',
            keras_archive.CONFIG: b'{"config": {}}',
            keras_archive.WEIGHTS: b"weights",
        },
        lambda path: (keras_archive.check(path), keras_archive.read_record(path)),
        PackagingError,
        True,
    ),
    "lite": (
        {"manifest.json": b'{"name": "model"}', "golden.npz": b"golden data"},
        lambda path: unpack_lite(path, path.parent / "unpacked"),
        PackagingError,
        True,
    ),
    "golden": (
        unzipped(SMALL_GOLDEN),
        lambda path: read_golden(path.read_bytes(), str(path)),
        PackagingError,
        True,
    ),
}


def patched(data: bytes, offset: int, size: int, value: int) -> bytes:
    """A field of the directory's first entry, at `offset` in it, set to a value."""
    position = data.index(b"PK\x01\x02") + offset
    return data[:position] + value.to_bytes(size, "little") + data[position + size :]


def flipped(members) -> bytes:
    """One bit of the largest member's contents, which every reader reads, is not what was packed."""
    data = bytearray(zipped(members.items()))
    largest = max(members.values(), key=len)
    position = data.index(largest) + len(largest) // 2
    data[position] ^= 1
    return bytes(data)


HOSTILE_ZIPS = {
    "empty": lambda members: b"",
    "page": lambda members: b"<!DOCTYPE html><html>Not Found</html>",
    "no members": lambda members: zipped([]),
    "cut in half": lambda members: zipped(members.items())[: len(zipped(members.items())) // 2],
    "one bit flipped": flipped,
    "twice": lambda members: zipped([*members.items(), *members.items()][: len(members) + 1]),
    "encrypted": lambda members: patched(zipped(members.items()), 8, 2, 1),
    "bzip2": lambda members: zipped(members.items(), zipfile.ZIP_BZIP2),
    "larger, says the directory": lambda members: patched(zipped(members.items()), 24, 4, 1 << 31),
    "smaller, says the directory": lambda members: patched(zipped(members.items()), 24, 4, 3),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE_ZIPS)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_zip_is_refused_by_each_reader_in_its_own_error(tmp_path, reader, case):
    members, read, error, _ = READERS[reader]
    path = tmp_path / "bad.file"
    path.write_bytes(HOSTILE_ZIPS[case](members))
    with pytest.raises(error, match=r"bad\.file: "):
        read(path)
    assert [left.name for left in tmp_path.iterdir()] == ["bad.file"]


@pytest.mark.parametrize("reader", READERS)
def test_good_zip_is_read_by_each_reader_and_one_of_more_members_than_allowed_is_not(tmp_path, monkeypatch, reader):
    members, read, error, _ = READERS[reader]
    path = tmp_path / "bad.file"
    path.write_bytes(zipped(members.items()))
    read(path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 1)
    with pytest.raises(error, match=r"bad\.file: it has \d+ members, more than the 1 that are allowed"):
        read(path)


@pytest.mark.parametrize("reader", [reader for reader, (*_, names_are_fixed) in READERS.items() if names_are_fixed])
def test_reader_of_fixed_names_refuses_any_other_and_a_missing_one(tmp_path, reader):
    members, read, error, _ = READERS[reader]
    path = tmp_path / "bad.file"
    for name in ("../climbing", "/absolute", "C:drive", "back\\slash"):
        path.write_bytes(zipped([*members.items(), (name, b"x")]))
        with pytest.raises(error, match=r"it holds .*(climbing|absolute|drive|slash)"):
            read(path)
    path.write_bytes(zipped(list(members.items())[1:]))
    with pytest.raises(error, match="it holds "):
        read(path)
    assert [left.name for left in tmp_path.iterdir()] == ["bad.file"]


@pytest.mark.parametrize(
    ("reader", "member"), [("golden", "outputs.npy"), ("golden", "coarse.npy"), ("lite", "golden.npz"),
                           ("keras", keras_archive.CONFIG)]
)  # fmt: skip
def test_member_that_unpacks_to_more_than_allowed_is_refused(tmp_path, reader, member):
    members, read, error, _ = READERS[reader]
    path = tmp_path / "bomb.file"
    path.write_bytes(zipped((members | {member: bytes(65 << 20)}).items(), zipfile.ZIP_DEFLATED))
    with pytest.raises(error, match=rf"bomb\.file: {member} unpacks to more than"):
        read(path)


def test_bomb_behind_a_directory_that_lies_is_not_unpacked():
    bomb = patched(zipped([("a", bytes(50 << 20))], zipfile.ZIP_DEFLATED), 24, 4, 10)
    refusal = Refusal("bomb.zip", EvaluationError, "Get another.")
    tracemalloc.start()
    with (
        pytest.raises(EvaluationError, match=r"^bomb\.zip: a is damaged: .*CRC.* Get another\.$"),
        open_zip(io.BytesIO(bomb), refusal, {"a": 100}) as archive,
    ):
        read_member(archive, "a")
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_any_changed_byte_of_a_zip_is_refused_or_changes_nothing():
    """Nothing but the caller's error comes out, wherever the damage is."""
    members = {"a": b"1234567890" * 10, "b": b"abc"}
    whole = zipped(members.items(), zipfile.ZIP_DEFLATED)
    for position in range(len(whole)):
        for change in (0x01, 0x80, 0xFF):
            data = bytearray(whole)
            data[position] ^= change
            try:
                with open_zip(
                    io.BytesIO(data), Refusal("a.zip", EvaluationError, ""), dict.fromkeys("ab", 200)
                ) as archive:
                    assert {name: read_member(archive, name) for name in "ab"} == members
            except EvaluationError:
                pass


def test_errors_of_this_project_pass_and_those_of_the_system_blame_no_archive(tmp_path):
    refusal = Refusal("a.zip", EvaluationError, "Get another.")
    with pytest.raises(PackagingError, match=r"^mine$"), refusal:
        raise PackagingError("mine")
    with (
        pytest.raises(EvaluationError, match=r"^a\.zip: cannot be read or unpacked: No space left on device\.$"),
        refusal,
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(EvaluationError, match=r"^a\.zip: wrong\. Get another\.$"), refusal:
        raise ArchiveError("wrong")
    with pytest.raises(ZeroDivisionError), refusal:  # a fault of the program
        raise ZeroDivisionError


def member(name: str, contents: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, contents


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, contents in members:
            info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents))
    return path


def refuse_tarball(path: Path, message: str) -> None:
    """Asserts that `path` is refused with the message, by the reader and by both of its callers, and leaves nothing."""
    before = sorted(path.parent.parent.glob("*")) + sorted(path.parent.iterdir())
    with pytest.raises(EvaluationError, match=message):
        read_tarball(path, Refusal(str(path), EvaluationError, ""), lambda _, contents: contents and contents.read())
    with pytest.raises(PackagingError, match=message):
        extract_tarball(path, path.parent / "unpacked")
    with pytest.raises(PackagingError, match=message):
        hash_tarball(path)
    assert before == sorted(path.parent.parent.glob("*")) + sorted(path.parent.iterdir())


SPARSE = {"major": "1", "minor": "0", "name": "saved_model.pb", "realsize": "1000000"}
SPARSE = {f"GNU.sparse.{key}": value for key, value in SPARSE.items()}
# The last member is the one at fault.
BAD_MEMBERS = {
    "absolute": [member("/tmp/absolute")],
    "climbing": [member("../climbing")],
    "climbing inside": [member("variables/../../climbing")],
    "backslash": [member("..\\backslash")],
    "drive": [member("C:drive")],
    "no name": [member("", b"x")],
    "control character": [member("saved\nmodel.pb")],
    "symbolic link": [member("link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": [member("saved_model.pb"), member("link", b"", type=tarfile.LNKTYPE, linkname="saved_model.pb")],
    "character device": [member("device", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("pipe", b"", type=tarfile.FIFOTYPE)],
    "twice": [member("saved_model.pb", b"a"), member("saved_model.pb", b"b")],
    "twice by another spelling": [member("saved_model.pb", b"a"), member("./saved_model.pb", b"b")],
    "sparse, as GNU writes it": [member("saved_model.pb", b"end", type=tarfile.GNUTYPE_SPARSE)],
    "sparse, as POSIX writes it": [
        member("saved_model.pb", b"1\n0\n3\n".ljust(512, b"\0") + b"end", pax_headers=SPARSE)
    ],
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_member_of_a_tarball_is_refused_by_name(tmp_path, case):
    name = BAD_MEMBERS[case][-1][0].name
    refuse_tarball(
        write_tar(tmp_path / "bad.tar.gz", *BAD_MEMBERS[case]), re.escape(f"bad.tar.gz, member {name!r}: it")
    )


def damaged(whole: bytes) -> dict[str, bytes]:
    plain = gzip.decompress(whole)
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0xFF
    return {
        "empty": b"",
        "page": b"<!DOCTYPE html><html>Not Found</html>",
        "not compressed": plain,
        "cut in half": whole[: len(whole) // 2],
        "without its checksum": whole[:-8],
        "one byte changed": bytes(changed),
        "compressed, no tar": gzip.compress(b"not a tarball" * 100),
        "tar cut inside a member": gzip.compress(plain[: len(plain) // 2]),
        "no members": gzip.compress(bytes(10_240)),
    }


@pytest.mark.parametrize("case", damaged(gzip.compress(b"")))
def test_damaged_tarball_is_refused_by_name(tmp_path, case):
    weights = np.random.default_rng(0).bytes(100_000)
    path = write_tar(tmp_path / "bad.tar.gz", member("saved_model.pb", weights), member("variables.index"))
    path.write_bytes(damaged(path.read_bytes())[case])
    refuse_tarball(path, r"bad\.tar\.gz")


def test_tar_bomb_is_stopped_long_before_it_is_unpacked(tmp_path):
    path = write_tar(tmp_path / "bomb.tar.gz", member("variables", bytes(100_000_000)))
    refuse_tarball(path, r"bomb\.tar\.gz, member 'variables': it unpacks to more than 67,108,864")


def test_long_name_of_a_tarball_is_refused_unread(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * 1_000_000))
    refuse_tarball(path, "an extended header has")


@pytest.mark.parametrize("comment", ["x" * 80_000_000, "1" * 20_000], ids=["of megabytes", "of digits"])
def test_long_header_of_a_tarball_is_refused_unread(tmp_path, comment):
    """A PAX header is read into memory whole, and searched in time to its square where it is all digits."""
    path = write_tar(tmp_path / "a.tar.gz", member("saved_model.pb", pax_headers={"comment": comment}))
    refuse_tarball(path, "an extended header has")


@pytest.mark.parametrize(
    "header",
    ["{'descr': '<f4', 'shape': (1,", "'" * 3 + "abc", "  1\n 2", "{1: 2, 'descr': 3, 'shape': 1}", "-" * 9000 + "1"],
)
def test_npy_header_that_is_none_is_refused_whatever_its_parser_raises(header):
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(archives.ArchiveError, match=r"the \.npy header of a is damaged"):
        archives.npy_header(io.BytesIO(data), "a")


@pytest.mark.parametrize(
    ("limit", "low", "enough", "message"),
    [("MAX_MEMBERS", 10, 11, "10 members"), ("MAX_TAR_BYTES", 5000, 40_000, "5,000 b")],
)
def test_more_members_or_bytes_of_a_tarball_than_allowed_are_refused(
    tmp_path, monkeypatch, limit, low, enough, message
):
    path = write_tar(tmp_path / "a.tar.gz", *[member(f"file{i}", bytes(1000)) for i in range(11)])
    monkeypatch.setattr(archives, limit, low)
    refuse_tarball(path, message)
    monkeypatch.setattr(archives, limit, enough)
    assert len(hash_tarball(path)) == 11
