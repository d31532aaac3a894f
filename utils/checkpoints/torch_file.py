"""The tensors of a PyTorch checkpoint, by key, without executing anything that the file says."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.archives import check_crc
from utils.checkpoints.archives import format_of, open_archive, refuse_bomb
from utils.errors import CheckpointError

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model", "model_state_dict")  # the last: of PyTorch's own tutorial on checkpoints
_AVERAGES = ("state_dict_ema", "model_ema")  # of the weights: timm's train.py; DeiT's and torchvision's
# What trainers leave beside the weights (timm's train.py: `args`, and `metric`, a NumPy scalar). None of it is needed,
# so none of it is made: each of these names stands for `_Inert` while a file is read.
_INERT = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"pathlib.{local}{system}Path" for local in ("", "_local.") for system in ("Posix", "Windows", "PurePosix")),
)


class _Inert:
    """Takes any arguments and any state, keeps nothing, does nothing."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_state_dict(
    path: Path, limit: int, needed: int, use_ema: bool = False, has_choice: bool = True
) -> tuple[dict[str, torch.Tensor | Any], list[str]]:
    """Reads the state dict, without wrappers ("state_dict", "model", "model_state_dict").

    `limit` bounds the bytes that the archive may declare, `needed` is what the message compares them with. `use_ema`
    takes the moving average of the weights instead; `has_choice`: the notebook has that parameter.
    Returns the values as they are in the file, checked by nobody yet, and what the user should know. Raises
    CheckpointError.
    """
    content, notes = _load(path, limit, needed), []
    averages = _mappings(content, _AVERAGES)
    if use_ema:
        if not averages:
            found = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
            raise CheckpointError(
                f"{path}: use_ema is True, and the file has no {' or '.join(_AVERAGES)}; it has {found or 'nothing'}. "
                "Set use_ema to False, or give the trainer's own file."
            )
        content = content[averages[0]]
        notes.append(f"{path.name}: the moving average of the weights, {averages[0]}, was taken.")
    elif averages:
        choice = "set use_ema to True" if has_choice else "save it as a file of its own, and give that"
        notes.append(
            f"{path.name}: beside the weights the file has their moving average, {averages[0]}, which was not taken. "
            f"If the accuracy that you know is the average's, {choice}."
        )
    for _ in _WRAPPERS:
        inner = _mappings(content, _WRAPPERS)
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path}: expected a state dict (tensors by name), alone or under "
            f"{' or '.join(map(repr, _WRAPPERS))}, found {type(content).__name__}. Save model.state_dict()."
        )
    # Not by its methods: an OrderedDict's state, which the file tells, may hide them behind other things.
    return {key: content[key] for key in content}, notes


def _mappings(content: Any, names: tuple[str, ...]) -> list[str]:
    """Those names under which there is a mapping; trainers leave None, or a model's name, under some."""
    if not isinstance(content, Mapping):
        return []
    return [name for name in names if name in content and isinstance(content[name], Mapping)]


def _load(path: Path, limit: int, needed: int) -> Any:
    import torch

    zipped = format_of(path) == "torch"
    if zipped:
        with open_archive(path) as archive:
            members = archive.infolist()
            if any("/code/" in member.filename for member in members):
                raise CheckpointError(
                    f"{path}: this is a TorchScript module, which holds a program beside the weights, and was "
                    "not read. If you trust it, save its state dict alone: "
                    "torch.save(torch.jit.load(path).state_dict(), new_path)."
                )
            # torch.save never compresses, and mapping a compressed file would take its packed bytes for weights.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise CheckpointError(f"{path}: PyTorch files are not compressed, but this one is. Get the original.")
            refuse_bomb(path, members, limit, needed)
            check_crc(archive)  # PyTorch does not look
    try:
        # Mapping keeps the weights out of memory until they are used; only the zip format can be mapped.
        with torch.serialization.safe_globals([(_Inert, name) for name in _INERT]):
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
    operand = re.search(r"Unsupported operand (\d+)", str(error))
    if operand:
        return (
            f"the file is damaged, or was saved with a newer pickle_protocol than the 2 that can be read safely "
            f"(found instruction {operand[1]}). Save it with torch.save(model.state_dict(), path)."
        )
    # PyTorch's own first line is an advice to load the file unsafely.
    told = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    text = told[1] if told else str(error).strip()
    reason = text.splitlines()[0] if text else type(error).__name__
    return f"the file is damaged or no PyTorch checkpoint: {reason[:300]}. Get the file again."
