"""A .tflite file that carries its manifest, golden data and class names, as a zip archive after the model.

That is TFLite's own convention for associated files: the model is read from the start, an archive from the end, so
that the file works as a model, and `unzip` shows what else is in it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from utils.errors import PackagingError

MODEL, MANIFEST, GOLDEN, LABELS = "model.tflite", "manifest.json", "golden.npz", "labels.tsv"
_LIMITS = {MANIFEST: 16 << 20, GOLDEN: 4 << 20, LABELS: 4 << 20}  # bytes, unpacked


def pack_lite(model: Path, associated: Mapping[str, bytes], path: Path) -> Path:
    """Writes `path`, not atomically: the model's bytes, then the archive. The same input gives the same bytes."""
    shutil.copyfile(model, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in associated.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # a new ZipInfo's date is 1980
    return path


def unpack_lite(path: str | os.PathLike, folder: Path) -> Path:
    """The model and its associated files, as files in the new `folder`.

    PackagingError for an archive that is missing, damaged, larger than it should be, or holds anything else.
    """
    path = Path(path)
    length, contents = _parts(path)
    folder.mkdir(parents=True)
    with (folder / MODEL).open("wb") as target:
        for chunk in _chunks(path, length):
            target.write(chunk)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder


def hash_lite(path: Path) -> tuple[dict[str, str], bytes]:
    """SHA-256 by name of what `unpack_lite` would write, and the manifest's own bytes. Raises as that does."""
    length, contents = _parts(path)
    digest = hashlib.sha256()
    for chunk in _chunks(path, length):
        digest.update(chunk)
    hashes = {name: hash_bytes(data) for name, data in contents.items()}
    return hashes | {MODEL: digest.hexdigest()}, contents[MANIFEST]


def _parts(path: Path) -> tuple[int, dict[str, bytes]]:
    """The model's length, and the associated files, each checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if len(set(names)) != len(names) or not {MANIFEST, GOLDEN} <= set(names) <= set(_LIMITS):
                raise zipfile.BadZipFile(f"it holds {', '.join(map(repr, names[:10])) or 'nothing'}")
            return min(member.header_offset for member in members), {m.filename: _read(archive, m) for m in members}
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise PackagingError(
            f"{path}: expected a .tflite file with {MANIFEST} and {GOLDEN} in an archive at its end, but {error}. "
            "Get the file again."
        ) from error


def _chunks(path: Path, length: int) -> Iterator[bytes]:
    """The file's first `length` bytes."""
    with path.open("rb") as file:
        while length and (chunk := file.read(min(length, 1 << 20))):
            length -= len(chunk)
            yield chunk


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    limit = _LIMITS[member.filename]
    with archive.open(member) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise zipfile.BadZipFile(f"{member.filename} unpacks to more than {limit:,} bytes")
    return data


def hash_bytes(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
