"""Tarballs: packed so that the same folder always gives the same bytes, and unpacked as if a stranger had made them.

`read_tarball` checks the members one by one, and this module writes their bytes, never tarfile's own extraction: what
is refused cannot happen, on any Python 3.11 or newer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import IO, BinaryIO

from utils.archives import Refusal, read_tarball
from utils.errors import PackagingError
from utils.files import paths_below, written_whole

# Weights in float32 hold hardly anything that repeats: only their exponent bytes are skewed, and Huffman coding alone
# finds that. On 80 MB of normal noise: level 0 307 MB/s to 100 %; levels 1 to 9 17 to 21 MB/s to 92.7 to 92.9 %; run
# lengths and Huffman codes (Z_RLE; runs are zeroed weights), at any level, 52 MB/s to 92.6 %. Python's `gzip` has none.
_LEVEL, _STRATEGY = 6, zlib.Z_RLE
_GZIP_WINDOW = 31  # zlib writes the gzip header itself, without file name and time


class Packing:
    """The one gzip stream of a tarball, which goes on where the last `append` ended: nothing is compressed twice.

    A second gzip member would be simpler, but TF Hub reads tarballs as a stream, and Python's `tarfile` then takes the
    end of the first member for the end of the tarball.
    """

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW, zlib.DEF_MEM_LEVEL, _STRATEGY)
        self._length = 0  # of the file without its end, which the next `append` overwrites
        self.names: list[str] = []

    def append(self, file: BinaryIO, folder: Path, names: Iterable[str]) -> None:
        """Adds files and folders; the tarball in `file` is complete afterwards. A file is streamed, never held."""
        file.seek(self._length)
        file.truncate()
        # All that tarfile needs. It is not closed, as it would write the end of the archive.
        compressing = SimpleNamespace(write=lambda data: file.write(self._compressor.compress(data)), tell=lambda: 0)
        tar = tarfile.open(fileobj=compressing, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        for name in names:
            _add(tar, folder / name, name)
            self.names.append(name)
        self._length = file.tell()
        end = self._compressor.copy()
        file.write(end.compress(bytes(tarfile.RECORDSIZE)) + end.flush())


def write_tarball(folder: str | os.PathLike, path: str | os.PathLike, packing: Packing | None = None) -> Path:
    """Packs what is in `folder` into a tar.gz with `saved_model.pb` at its root, where TF Hub looks for it.

    The bytes depend on nothing but the files' paths and contents, and the zlib library: sorted members, fixed modes, no
    owners, no times. `path` appears once it is complete.

    packing: a new one, for who has more to append. PackagingError for a missing or empty folder, and for links in it;
    OSError where `path` cannot be written.
    """
    folder, path = Path(folder), Path(path)
    names = paths_below(folder)
    if not names:
        raise PackagingError(f"{folder} is empty. Expected the files of a SavedModel.")
    with written_whole(path) as file:
        (packing or Packing()).append(file, folder, names)
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


def extract_tarball(path: str | os.PathLike, destination: str | os.PathLike) -> Path:
    """Unpacks a tar.gz into the new folder `destination`, which appears once it is complete and checked.

    PackagingError, which names the tarball and the member, for what `read_tarball` refuses, and for a destination that
    already holds something.
    """
    path, destination = Path(path), Path(destination)
    if destination.exists() and not (destination.is_dir() and not any(destination.iterdir())):
        raise PackagingError(f"{destination} already exists. Remove it, or unpack {path.name} somewhere else.")
    with _refusal(path) as refusal:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}.partial-") as scratch:
            partial = Path(scratch, "new")  # of the usual permissions; a temporary folder is its owner's only
            read_tarball(path, refusal, lambda name, contents: _write(partial / name, contents))
            os.replace(partial, destination)
    return destination


def hash_tarball(path: str | os.PathLike) -> dict[str, str]:
    """SHA-256 of each file in a tar.gz by path, under the checks of `extract_tarball`; unpacks nothing."""
    hashes = {}

    def add(name: PurePosixPath, contents: IO[bytes] | None) -> None:
        if contents is not None:
            hashes[str(name)] = hashlib.file_digest(contents, "sha256").hexdigest()

    read_tarball(Path(path), _refusal(path), add)
    return dict(sorted(hashes.items()))


def _refusal(path: str | os.PathLike) -> Refusal:
    expected = "Expected a complete .tar.gz of a SavedModel, of plain files and folders. Nothing was unpacked: "
    return Refusal(str(path), PackagingError, f"{expected}build or fetch it again.")


def _write(path: Path, contents: IO[bytes] | None) -> None:
    if contents is None:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # "x": two names may be one to the file system, as "A" and "a" are to many.
    with path.open("xb") as file:
        shutil.copyfileobj(contents, file, 1 << 20)
