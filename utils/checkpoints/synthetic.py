"""Random checkpoints in the official formats and sizes: to try a conversion out without the official file.

Every array is drawn from its own stream, fixed by the seed and the key: the same seed gives the same file.
Everything gets a jitter, because a BatchNorm left near its defaults would hide conversion errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.checkpoints.download import Checkpoint, cache_folder, read_record, write_record
from utils.checkpoints.writing import write_npz
from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.variants import Variant
from utils.files import hash_file, written_whole

# Raise it when the drawn numbers change, so that no older cached file is mistaken for a new one.
_FORMAT_VERSION = 2

Arrays = Iterable[tuple[str, np.ndarray]]  # by canonical key; float32, counters int64


def cached(variant: Variant, seed: int) -> Path:
    """The file's place in the cache."""
    return cache_folder() / f"{variant.name}.synthetic-v{_FORMAT_VERSION}-seed{seed}{FAMILIES[variant.family].suffix}"


def checkpoint(variant: Variant, seed: int) -> Checkpoint:
    """The file of this variant and seed, written at the first use, or again if it was changed."""
    path = cached(variant, seed)
    sha256 = hash_file(path) if path.is_file() else None
    if sha256 is None or read_record(path).get("sha256") != sha256:
        write(variant, path, seed)
        sha256 = hash_file(path)
        write_record(path, f"synthetic, seed {seed}", sha256)
    return Checkpoint(path, "synthetic", None, sha256)


def write(variant: Variant, path: Path, seed: int) -> None:
    """Writes the file that the family's trainers leave: a .pth.tar wrapped as timm's trainer does, or an .npz.

    Whole or not at all; CheckpointError if that is not possible.
    """
    family = FAMILIES[variant.family]
    try:
        with written_whole(path) as file:
            arrays = family.synthetic.arrays(variant.architecture, seed)
            if family.suffix == ".npz":
                write_npz(file, arrays)
            else:
                _write_torch(file, arrays, variant.name)
    except (OSError, RuntimeError) as error:  # torch.save wraps a failing write in a RuntimeError
        raise CheckpointError(f"{path}: the synthetic checkpoint cannot be written: {error}.") from error


def _write_torch(file: BinaryIO, arrays: Arrays, name: str) -> None:
    import torch

    tensors = {key: torch.from_numpy(array) for key, array in arrays}
    # Saving to an open file, not to a path, keeps the file's name out of the archive's bytes.
    torch.save({"state_dict": tensors, "epoch": 0, "arch": name}, file)
