"""What a file is, by its bytes: nothing is unpacked, and no reader started, before that is known.

PyTorch's files since 1.6 and NumPy's .npz are zip archives; PyTorch's older ones begin with a pickled number, and
.safetensors files with the length of a JSON header.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.archives import Refusal, open_zip
from utils.errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
# What torch.save wrote first before version 1.6: MAGIC_NUMBER of torch/serialization.py, pickled.
_TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# The header's length, 8 bytes, then `{`: https://github.com/huggingface/safetensors#format, which also sets the limit.
_SAFETENSORS_HEADER_BYTES = 100_000_000
_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))


def regular_file(path: str | os.PathLike) -> Path:
    """The path, if it is an ordinary file that can be read; else a CheckpointError that says what it is."""
    path = Path(path).expanduser()
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return path
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: there is no such file. "
            'Set checkpoint to "official", "synthetic", or the path of a local checkpoint file.'
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror or error}.") from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
    raise CheckpointError(f"{path}: expected a checkpoint file, found {kind}. Give the path of the file itself.")


def why_not_checkpoint(path: Path) -> str | None:
    """Why a file cannot be a checkpoint, or None if its first bytes (and a zip archive's last) look right."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "is empty"
    if start.startswith(_ZIP_MAGIC):
        return None if zipfile.is_zipfile(path) else "is a zip archive cut short: its directory, at the end, is missing"
    if start.startswith(_TORCH_LEGACY_MAGIC):
        return None
    if start.lstrip().lower().startswith(_WEB_PAGES):
        return "is a web page (a login or error page, perhaps)"
    if start.startswith(_PICKLES):
        return "is a bare Python pickle, which could run any program when read, and was not read"
    if start[8:9] == b"{":
        length, size = int.from_bytes(start[:8], "little"), path.stat().st_size
        if length <= min(size - 8, _SAFETENSORS_HEADER_BYTES):
            return None
        return f"is no sound .safetensors file: it announces a header of {length:,} bytes, and has {size:,} in all"
    return f"is neither a PyTorch, .safetensors nor .npz file: it starts with {start[:8]!r}"


def format_of(path: Path) -> str:
    """Tells "torch", "torch legacy", "safetensors" or "npz"; CheckpointError for anything else, with what was found."""
    wrong = why_not_checkpoint(path)
    if wrong:
        raise CheckpointError(f"{path}: expected a checkpoint, but this {wrong}. Get the file again.")
    with path.open("rb") as file:
        start = file.read(len(_TORCH_LEGACY_MAGIC))
    if not start.startswith(_ZIP_MAGIC):
        return "torch legacy" if start.startswith(_TORCH_LEGACY_MAGIC) else "safetensors"
    with open_archive(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    raise CheckpointError(
        f"{path}: expected a PyTorch file or an .npz, found a zip of other things: {', '.join(names[:5])}."
    )


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Opens a checkpoint that is a zip file. CheckpointError for a damaged one, also inside the block."""
    with open_zip(path, Refusal(str(path), CheckpointError, "Get the file again.")) as archive:
        yield archive


def refuse_bomb(path: Path, members: Iterable[zipfile.ZipInfo], limit: int, needed: int) -> None:
    """CheckpointError if unpacking these members would take more than `limit` bytes; `needed` is for the message."""
    declared = sum(member.file_size for member in members)
    if declared > limit:
        raise CheckpointError(
            f"{path}: unpacked, it would take {declared:,} bytes, and this variant needs {needed:,}. "
            "It is not this variant's checkpoint, and it was not unpacked."
        )
