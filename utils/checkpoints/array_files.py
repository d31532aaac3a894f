"""Files of plain arrays, .npz and .safetensors: nothing is executed, nor unpacked before its size is checked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.checkpoints.archives import format_of, open_archive, refuse_bomb
from utils.errors import CheckpointError

if TYPE_CHECKING:
    import torch


class NpzFile:
    """An .npz: its `headers` (shape and dtype name by key) are read at once, its arrays on demand."""

    def __init__(self, path: Path) -> None:
        if format_of(path) != "npz":
            raise CheckpointError(f"{path}: expected an .npz (a Flax checkpoint), found another file.")
        self.path = path
        with open_archive(path) as archive:
            self._members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            self.headers = {key: _header(archive, member) for key, member in self._members.items()}

    def read(self, keys: list[str], needed: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yields these arrays; CheckpointError if they would unpack to more than `needed` bytes. Others stay packed."""
        wanted = [self._members[key] for key in keys]
        refuse_bomb(self.path, wanted, needed + 4096 * len(wanted), needed)  # 4096: a header
        with open_archive(self.path) as archive:
            for key in keys:
                with archive.open(self._members[key]) as member:
                    array = np.lib.format.read_array(member, allow_pickle=False)
                    if member.read(1):  # the end is also where zipfile compares the CRC
                        raise ValueError(f"{key} is longer than its header says")
                yield key, array


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[tuple[int, ...], str]:
    """Shape and dtype name. Only version 1.0 of the format: a later one's header may be of any length."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{member.filename} has version {version} of the .npy format, expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype.name if dtype.isnative else str(dtype)


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of any dtype, which are views of the file mapped into memory; values are checked by nobody yet.

    The library checks the header: its length, that offsets neither overlap nor leave holes, that they end where the
    file ends, and that each tensor's bytes are those of its shape and dtype. CheckpointError for what is not so.
    """
    from safetensors import SafetensorError, safe_open

    if format_of(path) != "safetensors":
        raise CheckpointError(f"{path}: expected a .safetensors file, found another kind. Get the file again.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the .safetensors file is damaged, or its header does not tell the truth: {error}. "
            "Get the file again."
        ) from error
