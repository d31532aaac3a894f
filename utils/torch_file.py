"""The tensors of a PyTorch checkpoint, by key, without executing anything that the file says."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.archives import check_crc, format_of, members, refuse_bomb
from utils.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model")


def read_state_dict(path: Path, limit: int, needed: int) -> dict[str, torch.Tensor | Any]:
    """Reads the state dict, without wrappers ("state_dict", "model") and parallel training's "module.".

    `limit` bounds the bytes that the archive may declare, `needed` is what the message compares them with.
    Values are as in the file, checked by nobody yet. Raises CheckpointError.
    """
    content = _load(path, limit, needed)
    for _ in _WRAPPERS:
        inner = [content[name] for name in _WRAPPERS if isinstance(content, Mapping) and name in content]
        if not inner:
            break
        content = inner[0]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path}: expected a state dict (tensors by name), alone or under "
            f"{' or '.join(map(repr, _WRAPPERS))}, found {type(content).__name__}. Save model.state_dict()."
        )
    if content and all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def _load(path: Path, limit: int, needed: int) -> Any:
    import torch

    zipped = format_of(path) == "torch"
    if zipped:
        # torch.save never compresses, and mapping a compressed file would take its packed bytes for weights.
        if any(member.compress_type != zipfile.ZIP_STORED for member in members(path)):
            raise CheckpointError(f"{path}: PyTorch files are not compressed, but this one is. Get the original.")
        refuse_bomb(path, limit, needed)
        check_crc(path)
    try:
        # Mapping keeps the weights out of memory until they are used; only the zip format can be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (
        Exception
    ) as error:  # torch raises whatever its parts raise: RuntimeError, UnpicklingError, KeyError, EOFError
        raise CheckpointError(f"{path}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
    if foreign:
        return (
            f"the file holds Python objects ({foreign[1]}) beside the weights. Such objects can run any "
            "program when they are read, so it was not read. Save the state dict alone: "
            "torch.save(model.state_dict(), path)."
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"the file is damaged or no PyTorch checkpoint: {reason[:300]}. Get the file again."
