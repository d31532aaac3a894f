"""Packs SavedModels so that the same folder always gives the same bytes."""

from __future__ import annotations

import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import PackagingError
from utils.files import paths_below, written_whole

# Weights in float32 hold hardly anything that repeats: only their exponent bytes are skewed, and Huffman
# coding alone finds that. On 80 MB of normal noise: level 0 307 MB/s to 100 %; levels 1 to 9 17 to 21 MB/s to
# 92.7 to 92.9 %; run lengths and Huffman codes (Z_RLE; runs are zeroed weights), at any level, 52 MB/s to
# 92.6 %.
_LEVEL, _STRATEGY = 6, zlib.Z_RLE
_GZIP_WINDOW = 31  # zlib writes the gzip header itself, without file name and time


def write_tarball(folder: str | os.PathLike, path: str | os.PathLike, progress: bool = False) -> Path:
    """Packs what is in `folder` into a tar.gz with `saved_model.pb` at its root, where TF Hub looks for it.

    The bytes depend on nothing but the files' paths and contents, and the zlib library: sorted members, fixed
    modes, no owners, no times. `path` appears once it is complete. A file is streamed, never held.
    PackagingError for a missing or empty folder, for links in it, and where `path` cannot be written.
    """
    folder, path = Path(folder), Path(path)
    names = paths_below(folder)
    if not names:
        raise PackagingError(f"{folder} is empty. Expected the files of a SavedModel.")
    total = sum((folder / name).stat().st_size for name in names if (folder / name).is_file())
    with _written_beside(path) as file, _progress_bar(path.name, total, progress) as advance:
        writer = _GzipWriter(file)
        with tarfile.open(fileobj=writer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for name in names:
                advance(_add(tar, folder / name, name))
        writer.finish()
    return path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> int:
    """Adds a file or folder and returns its size in bytes. A new TarInfo has owner 0, no names and time 0."""
    member = tarfile.TarInfo(name)
    if path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        return 0
    member.mode = 0o644
    with path.open("rb") as file:
        member.size = os.fstat(file.fileno()).st_size
        tar.addfile(member, file)
    return member.size


class _GzipWriter(io.RawIOBase):
    """Compresses what is written to it; Python's `gzip` offers no choice of strategy."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zlib = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW, zlib.DEF_MEM_LEVEL, _STRATEGY)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._file.write(self._zlib.compress(data))
        return len(data)

    def finish(self) -> None:
        """Writes what is still held back, and the checksum."""
        self._file.write(self._zlib.flush())


@contextmanager
def _written_beside(path: Path) -> Iterator[BinaryIO]:
    """`written_whole`, with an error that says what to do."""
    try:
        with written_whole(path) as file:
            yield file
    except OSError as error:
        raise PackagingError(f"{path} cannot be written: {error}. Free some space or choose another folder.") from error


@contextmanager
def _progress_bar(label: str, total: int, wanted: bool) -> Iterator[Callable[[int], object]]:
    if not wanted:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=label, unit="B", unit_scale=True) as bar:
        yield bar.update
