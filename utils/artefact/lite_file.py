"""A .tflite file that carries its manifest, golden data and class names, as a zip archive after the model.

That is TFLite's own convention for associated files: the model is read from the start, an archive from the end, so
that the file works as a model, and `unzip` shows what else is in it. Nothing is compressed, because MediaPipe refuses
archives of compressed files.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from utils.archives import Refusal, open_zip, read_member
from utils.errors import PackagingError

MODEL, MANIFEST, GOLDEN, LABELS = "model.tflite", "manifest.json", "golden.npz", "labels.tsv"
NAMES = "labels.txt"  # the names in labels.tsv alone, as the model's metadata has them read
_LIMITS = {MANIFEST: 16 << 20, GOLDEN: 4 << 20, LABELS: 4 << 20, NAMES: 4 << 20}  # bytes, unpacked


def pack_lite(model: Path, associated: Mapping[str, bytes], path: Path) -> Path:
    """Writes `path`, not atomically: the model's bytes, then the archive. The same input gives the same bytes."""
    shutil.copyfile(model, path)
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in associated.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # a new ZipInfo's date is 1980
    return path


def unpack_lite(path: Path, folder: Path) -> Path:
    """The model and its associated files, as files in the new `folder`.

    PackagingError for an archive that is missing, damaged, larger than it should be, or holds anything else.
    """
    expected = f"Expected a .tflite file with {MANIFEST} and {GOLDEN} in an archive at its end. Get the file again."
    with open_zip(path, Refusal(str(path), PackagingError, expected), _LIMITS, {MANIFEST, GOLDEN}) as archive:
        length = min(member.header_offset for member in archive.infolist())
        contents = {name: read_member(archive, name) for name in archive.namelist()}
    folder.mkdir(parents=True)
    shutil.copyfile(path, folder / MODEL)
    os.truncate(folder / MODEL, length)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return folder
