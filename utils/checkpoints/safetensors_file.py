"""The tensors of a .safetensors file, by key: a JSON header and plain bytes, with nothing to execute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from utils.checkpoints.archives import format_of
from utils.errors import CheckpointError

if TYPE_CHECKING:
    import torch


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
