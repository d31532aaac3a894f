"""Zip files and tarballs, read as if a stranger had made them: no member is unpacked before it has been checked.

Standard library only, because `verify.pyz` carries this module.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, TYPE_CHECKING

from utils.errors import ConversionError

if TYPE_CHECKING:
    import numpy as np

MAX_MEMBERS = 10_000  # a SavedModel has about ten files, and one more per asset; the largest checkpoint has 470 members
MAX_TAR_BYTES = 8 << 30  # nearly ten times the largest model here
# Weights hardly shrink and graphs about tenfold; deflate's limit, which a bomb goes for, is a thousandfold.
MAX_RATIO, SMALL = 50, 64 << 20
_CHUNK = 1 << 20
_MAX_PAX = (
    1 << 10
)  # bytes of an extended header, or of a name, for which tarfile takes time to its square; a path needs 300
# What Python's readers, NumPy's and the JSON parser raise when bytes are not what they should be.
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error),
    *(OSError, EOFError, ValueError, LookupError, RuntimeError, OverflowError),
)


class ArchiveError(ValueError):
    """An archive breaks a rule of this module; the message is the end of a sentence about it."""


@dataclass
class Refusal:
    """A context that turns what a damaged or hostile archive raises into the caller's own error.

    The message names the archive (`where`), the member being read (`member`), and what is wrong; `expected` follows,
    sentences that say what the file should be and what to do. Errors of this project pass unchanged.
    """

    where: str
    error: type[ConversionError]
    expected: str
    member: str | None = None

    def __enter__(self) -> Refusal:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if isinstance(error, ConversionError) or not isinstance(error, _DAMAGE):
            return
        where = f"{self.where}, member {self.member!r}" if self.member is not None else self.where
        if isinstance(error, OSError) and error.errno is not None:  # the system's fault, not the archive's
            raise self.error(f"{where}: cannot be read or unpacked: {error.strerror}.") from error
        reason = str(error) or type(error).__name__
        if not isinstance(error, ArchiveError):
            reason = f"the archive is damaged: {reason}"
        raise self.error(f"{where}: {reason}. {self.expected}") from error


@contextmanager
def open_zip(
    file: Path | IO[bytes],
    refusal: Refusal,
    limits: Mapping[str, int] | None = None,
    required: Collection[str] | None = None,
    most: int | None = None,
) -> Iterator[zipfile.ZipFile]:
    """Opens a zip file and checks its directory; unpacks nothing.

    Args:
        file: The path, or the open file.
        refusal: Reports what is wrong, also inside the `with` block.
        limits: The most bytes that each member may unpack to, by name; no other member is allowed. Without it, any name
            and size passes: then the caller must use neither names as paths nor sizes unchecked.
        required: The members that must be there. All in `limits` by default.
        most: How many members it may have; `MAX_MEMBERS` by default.

    Raises:
        ConversionError: The class that `refusal` has; for a damaged or encrypted archive, for members that occur twice,
            are compressed by anything but deflate, are more than `most`, or break `limits` or `required`.
    """
    with refusal, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        counts = Counter(member.filename for member in members)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ArchiveError(f"it holds {_listed(repeated)} more than once")
        most = most or MAX_MEMBERS
        if len(members) > most:
            raise ArchiveError(f"it has {len(members):,} members, more than the {most:,} that are allowed")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError(f"{member.filename!r} is compressed by method {member.compress_type}, not deflate")
        if limits is not None:
            names = set(counts)
            if not set(limits if required is None else required) <= names <= set(limits):
                raise ArchiveError(f"it holds {_listed(list(counts)) or 'nothing'}")
            for member in members:
                if member.file_size > limits[member.filename]:
                    raise ArchiveError(
                        f"{member.filename} unpacks to more than {limits[member.filename]:,} bytes that are allowed"
                    )
        yield archive


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member's bytes, as many as the checked directory says: `ZipFile.read` would unpack what it does not say."""
    size = archive.getinfo(name).file_size
    try:
        with archive.open(name) as file:
            data = file.read(size + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ArchiveError(f"{name} is damaged: {error}") from error
    if len(data) != size:
        raise ArchiveError(f"{name} has {len(data):,} bytes, and the directory says {size:,}")
    return data


def check_crc(archive: zipfile.ZipFile) -> None:
    """ArchiveError if a member's bytes are not those that were packed."""
    damaged = archive.testzip()
    if damaged is not None:
        raise ArchiveError(f"{damaged} is damaged (CRC)")


def npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype that an .npy member declares; what follows is the data.

    ArchiveError for any other version than 1.0 of the format, whose header may be of any length, and for what is none.
    """
    import numpy as np

    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ArchiveError(f"{name} has version {version} of the .npy format, expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except ArchiveError:
        raise
    except Exception as error:  # NumPy gives the header to Python's own parser, which raises what it likes
        raise ArchiveError(f"the .npy header of {name} is damaged: {error or type(error).__name__}") from error
    return shape, dtype


def read_npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """The array `name` of an .npz, whose members' sizes are checked. ArchiveError for any but plain numbers."""
    import numpy as np

    data = read_member(archive, f"{name}.npy")
    file = io.BytesIO(data)
    shape, dtype = npy_header(file, name)
    if dtype.kind not in "biuf":
        raise ArchiveError(f"{name} is {dtype}, no plain numbers")
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():  # NumPy would ask for the memory first
        raise ArchiveError(f"{name} has not as many numbers as its header says")
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:10]))


def read_tarball(path: Path, refusal: Refusal, visit: Callable[[PurePosixPath, IO[bytes] | None], None]) -> None:
    """Reads a tar.gz from begin to end, once, and calls `visit` with each member's path and contents.

    Args:
        path: The tarball.
        refusal: Reports what is wrong, also what `visit` raises.
        visit: Takes a path that stays inside the folder, and the contents of a file or None for a folder. It reads
            them before it returns. What it has made counts only once this function returns.

    Raises:
        ConversionError: The class that `refusal` has; for anything but plain files and folders (links, devices, sparse
            files), for paths that are absolute, climb with "..", or have characters that some system reads otherwise,
            for members that occur twice, for more than `MAX_MEMBERS` or `MAX_TAR_BYTES` (also more than 50 times the
            tarball's own size, beyond 64 MiB), and for a damaged, truncated or empty tarball.
    """
    seen: set[PurePosixPath] = set()
    with refusal, _BoundedReader(path) as reader:
        reader.limit = min(MAX_TAR_BYTES, max(SMALL, MAX_RATIO * path.stat().st_size))
        with tarfile.open(
            fileobj=reader, mode="r|", tarinfo=_Member
        ) as tar:  # one pass: going back would decompress anew
            for member in tar:
                refusal.member = member.name
                name = _checked_path(member)
                if name in seen:
                    raise ArchiveError("it occurs twice")
                seen.add(name)
                if len(seen) > MAX_MEMBERS:
                    raise ArchiveError(f"it is past the {MAX_MEMBERS:,} members that are allowed")
                visit(name, tar.extractfile(member) if member.isreg() else None)
        refusal.member = None
        if not any(name.parts for name in seen):
            raise ArchiveError("it is empty")
        while reader.read(_CHUNK):  # gzip compares length and checksum at its end only
            pass


def _checked_path(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's path, if it stays inside the folder and the member is a plain file or folder."""
    # Sparse files are refused: a few bytes of theirs unpack to any size.
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse is not None:
        raise ArchiveError("it is a link, a device or of another kind that is not allowed")
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
        raise ArchiveError("its path leads outside the folder, or does on some system")
    if not member.name.isprintable() or not (name.parts or member.isdir()):
        raise ArchiveError("its path is empty or has characters that cannot be printed")
    return name


class _Member(tarfile.TarInfo):
    """A member whose extended header is read only if it is short."""

    def _proc_pax(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        self._require_short()
        return super()._proc_pax(tar)

    def _proc_gnulong(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        self._require_short()
        return super()._proc_gnulong(tar)

    def _require_short(self) -> None:
        if self.size > _MAX_PAX:
            raise ArchiveError(f"an extended header has {self.size:,} bytes, more than the {_MAX_PAX:,} allowed")


class _BoundedReader(gzip.GzipFile):
    """Decompresses a file up to `limit` bytes, and fails there."""

    limit: int

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if self.tell() > self.limit:
            raise ArchiveError(f"it unpacks to more than {self.limit:,} bytes that are allowed")
        return data
