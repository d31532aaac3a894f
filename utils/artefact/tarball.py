"""Tarballs: packed so that the same folder always gives the same bytes, and unpacked as if a stranger had made them.

When unpacking, members are checked one by one and their bytes written here, never by tarfile's own extraction: what is
not allowed below cannot happen, on any Python 3.11 or newer.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO

from utils.errors import PackagingError
from utils.files import paths_below, written_whole

# Weights in float32 hold hardly anything that repeats: only their exponent bytes are skewed, and Huffman coding alone
# finds that. On 80 MB of normal noise: level 0 307 MB/s to 100 %; levels 1 to 9 17 to 21 MB/s to 92.7 to 92.9 %; run
# lengths and Huffman codes (Z_RLE; runs are zeroed weights), at any level, 52 MB/s to 92.6 %. Python's `gzip` has none.
_LEVEL, _STRATEGY = 6, zlib.Z_RLE
_GZIP_WINDOW = 31  # zlib writes the gzip header itself, without file name and time


def write_tarball(folder: str | os.PathLike, path: str | os.PathLike) -> Path:
    """Packs what is in `folder` into a tar.gz with `saved_model.pb` at its root, where TF Hub looks for it.

    The bytes depend on nothing but the files' paths and contents, and the zlib library: sorted members, fixed
    modes, no owners, no times. `path` appears once it is complete. A file is streamed, never held.
    PackagingError for a missing or empty folder, and for links in it; OSError where `path` cannot be written.
    """
    folder, path = Path(folder), Path(path)
    names = paths_below(folder)
    if not names:
        raise PackagingError(f"{folder} is empty. Expected the files of a SavedModel.")
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW, zlib.DEF_MEM_LEVEL, _STRATEGY)
    with written_whole(path) as file:
        compressing = SimpleNamespace(
            write=lambda data: file.write(compressor.compress(data))
        )  # all that tarfile needs
        with tarfile.open(fileobj=compressing, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                _add(tar, folder / name, name)
        file.write(compressor.flush())
    return path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """Adds a file or folder. A new TarInfo has owner 0, no names and time 0."""
    member = tarfile.TarInfo(name)
    if path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        return
    member.mode, member.size = 0o644, path.stat().st_size
    with path.open("rb") as file:
        tar.addfile(member, file)


MAX_MEMBERS = 10_000  # a SavedModel has about ten files, and one more per asset
MAX_BYTES = 8 << 30  # nearly ten times the largest model here
# Weights hardly shrink and graphs about tenfold; deflate's limit, which a bomb goes for, is a thousandfold.
_MAX_RATIO, _SMALL = 50, 64 << 20
_CHUNK = 1 << 20


def extract_tarball(path: str | os.PathLike, destination: str | os.PathLike) -> Path:
    """Unpacks a tar.gz into the new folder `destination`, which appears once it is complete and checked.

    PackagingError, which names the tarball and the member, for anything but plain files and folders (links,
    devices, sparse files), for paths that are absolute or climb with "..", for members that occur twice, for
    more than `MAX_MEMBERS` or `MAX_BYTES` (also more than 50 times the tarball's own size, beyond 64 MiB), for a
    damaged or truncated tarball, and for a destination that already holds something.
    """
    path, destination = Path(path), Path(destination)
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise PackagingError(f"{destination} already exists. Remove it, or unpack {path.name} somewhere else.")
    with _naming(path) as at_fault:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.partial-") as scratch:
            partial = Path(scratch, "new")  # of the usual permissions; a temporary folder is its owner's only
            for name, contents in _members(path, at_fault):
                _write(partial / name, contents)
            os.replace(partial, destination)
    return destination


def hash_tarball(path: str | os.PathLike) -> dict[str, str]:
    """SHA-256 of each file in a tar.gz by path, under the checks of `extract_tarball`; unpacks nothing."""
    with _naming(Path(path)) as at_fault:
        files = ((str(name), contents) for name, contents in _members(Path(path), at_fault) if contents is not None)
        hashes = {name: hashlib.file_digest(contents, "sha256").hexdigest() for name, contents in files}
    return dict(sorted(hashes.items()))


def _write(path: Path, contents: IO[bytes] | None) -> None:
    if contents is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": two names may be one to the file system, as "A" and "a" are to many.
    with path.open("xb") as file:
        shutil.copyfileobj(contents, file, _CHUNK)


def _members(path: Path, at_fault: list[str]) -> Iterator[tuple[PurePosixPath, IO[bytes] | None]]:
    """Each member's checked path, with its contents if a file: to be read before the next is asked for."""
    seen: set[PurePosixPath] = set()
    with _BoundedReader(path) as reader:
        reader.limit = min(MAX_BYTES, max(_SMALL, _MAX_RATIO * path.stat().st_size))
        with tarfile.open(fileobj=reader, mode="r|") as tar:  # one pass: going back would decompress anew
            for member in tar:
                at_fault[:] = [member.name]
                name = _checked_path(member)
                if name in seen:
                    raise tarfile.ReadError("it occurs twice")
                seen.add(name)
                if len(seen) > MAX_MEMBERS:
                    raise tarfile.ReadError(f"it is past the {MAX_MEMBERS:,} members that are allowed")
                yield name, tar.extractfile(member) if member.isreg() else None
        at_fault.clear()
        if not any(name.parts for name in seen):
            raise tarfile.ReadError("it is empty")
        while reader.read(_CHUNK):  # gzip compares length and checksum at its end only
            pass


def _checked_path(member: tarfile.TarInfo) -> PurePosixPath:
    """The member's path, if it stays inside the folder and the member is a plain file or folder."""
    # Sparse files are refused: a few bytes of theirs unpack to any size.
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse is not None:
        raise tarfile.ReadError("it is a link, a device or of another kind that is not allowed")
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
        raise tarfile.ReadError("its path leads outside the folder, or does on some system")
    if not member.name.isprintable() or not (name.parts or member.isdir()):
        raise tarfile.ReadError("its path is empty or has characters that cannot be printed")
    return name


class _BoundedReader(gzip.GzipFile):
    """Decompresses a file up to `limit` bytes, and fails there."""

    limit: int

    def read(self, size: int = -1) -> bytes:
        data = super().read(size)
        if self.tell() > self.limit:
            raise tarfile.ReadError(f"it unpacks to more than {self.limit:,} bytes that are allowed")
        return data


@contextmanager
def _naming(path: Path) -> Iterator[list[str]]:
    """Turns what goes wrong inside into a PackagingError that names `path` and the member noted."""
    at_fault: list[str] = []
    try:
        yield at_fault
    except PackagingError:
        raise
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError) as error:
        where = f"{path}, member {at_fault[0]!r}" if at_fault else f"{path}"
        if isinstance(error, OSError) and error.errno is not None:  # the system's, not the tarball's fault
            raise PackagingError(f"{where}: {error}. Nothing was unpacked.") from error
        raise PackagingError(
            f"{where}: {str(error) or type(error).__name__}. Expected a complete .tar.gz of a SavedModel, of "
            "plain files and folders. Nothing was unpacked: build or fetch it again."
        ) from error
