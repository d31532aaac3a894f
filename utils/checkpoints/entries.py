"""A checkpoint's entries under canonical keys, whatever kind of file they are in: headers at once, arrays on demand.

Reading trusts nothing: no pickle is executed, and no archive is unpacked that is bigger than it should be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from utils.checkpoints.archives import format_of
from utils.checkpoints.array_files import NpzFile, read_safetensors
from utils.checkpoints.torch_file import read_state_dict
from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.base import COUNTER, Keys, Shapes
from utils.families.variants import VARIANTS, Variant

# Of the largest model: the weights, an average of them and an optimiser's two moments make four, in float64 eight.
_TORCH_COPIES = 9
_TORCH_SLACK_BYTES = 16 << 20
_PREFIXES = re.compile(r"^((module|_orig_mod|model)\.)+")  # of parallel training, torch.compile, PyTorch Lightning
_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "int64": 8}
_AS_IT_IS = None


@dataclass(frozen=True)
class Entries:
    """headers: shape and dtype name (or what the entry is, if no dense tensor) by key; layout: as a `Source` has it.

    as_variant: shape by key, as another variant of the family would name them. read: the arrays of some keys, one after
    the other, of the dtypes in the headers, but bfloat16 as float32; raises CheckpointError. notes: for the user.
    """

    headers: dict[str, tuple[tuple[int, ...], str]]
    as_variant: Callable[[Variant], Shapes]
    read: Callable[[list[str]], Iterator[tuple[str, np.ndarray]]]
    layout: str
    notes: tuple[str, ...] = ()


def open_entries(path: Path, variant: Variant, use_ema: bool = False) -> Entries:
    """Opens a file of the variant's family; CheckpointError for a file of another kind, damaged or unsafe."""
    found = format_of(path)
    if use_ema and not found.startswith("torch"):
        raise CheckpointError(
            f"{path}: use_ema is True, and a file of this kind has one set of weights. Set use_ema to False."
        )
    if found == "npz":
        if not FAMILIES[variant.family].npz:
            _require(next(name for name, family in FAMILIES.items() if family.npz), "NumPy (.npz)", path, variant)
        file = NpzFile(path)

        def read(keys: list[str]) -> Iterator[tuple[str, np.ndarray]]:
            return file.read(keys, sum(prod(file.headers[key][0]) * _BYTES[file.headers[key][1]] for key in keys))

        return Entries(file.headers, lambda _: _shapes(file.headers), read, FAMILIES[variant.family].synthetic_layout)
    if found == "safetensors":
        return _of_tensors(read_safetensors(path), path, variant, [])
    needed = _bytes(variant.shapes)
    # The largest of the family, so that another variant's file is told by its shapes, not by its size.
    largest = max(_bytes(other.shapes) for other in VARIANTS.values() if other.family == variant.family)
    limit = _TORCH_COPIES * largest + _TORCH_SLACK_BYTES
    tensors, notes = read_state_dict(path, limit, needed, use_ema, FAMILIES[variant.family].has_average)
    return _of_tensors(tensors, path, variant, notes)


def _of_tensors(tensors: Mapping[str, Any], path: Path, variant: Variant, notes: list[str]) -> Entries:
    """Of a mapping of PyTorch tensors, in any layout of either family."""
    tensors = _without_prefixes(tensors)
    family = _family(tensors)
    if family and family != variant.family:
        _require(family, "PyTorch", path, variant)
    layout, keys = _keys(tensors, variant)
    places = {keys.get(key, (key, None))[0]: key for key in tensors}
    axes, headers = dict(keys.values()), _headers(tensors, keys)

    def read(wanted: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        for canonical in wanted:
            array = _array(tensors[places[canonical]], f"{path}: {places[canonical]}")
            if axes.get(canonical):
                array = array.transpose(axes[canonical])
            # A copy only where it was transposed; ascontiguousarray makes a scalar one-dimensional.
            yield canonical, np.ascontiguousarray(array).reshape(headers[canonical][0])

    def as_variant(other: Variant) -> Shapes:
        return _shapes(_headers(tensors, _keys(tensors, other)[1]))

    return Entries(headers, as_variant, read, layout, tuple(notes))


def _headers(tensors: Mapping[str, Any], keys: Keys) -> dict[str, tuple[tuple[int, ...], str]]:
    headers = {}
    for key, value in tensors.items():
        canonical, axes = keys.get(key, (key, _AS_IT_IS))
        shape, dtype = _header(value)
        if axes and len(shape) == len(axes):
            shape = tuple(shape[axis] for axis in axes)
        headers[canonical] = shape, dtype
    return headers


def _shapes(headers: Mapping[str, tuple[tuple[int, ...], str]]) -> Shapes:
    return {key: shape for key, (shape, _) in headers.items()}


def _keys(tensors: Mapping[str, Any], variant: Variant) -> tuple[str, Keys]:
    """The file's layout, and canonical key and axes by its key; a key of no layout stays as it is, to be reported."""
    return FAMILIES[variant.family].layout.keys_of(variant.architecture, tensors)


def _family(keys: Mapping[str, Any]) -> str | None:
    return next((name for name, family in FAMILIES.items() if family.layout.MARKS & set(keys)), None)


def _require(family: str, kind: str, path: Path, variant: Variant) -> None:
    if variant.family != family:
        raise CheckpointError(
            f"{path}: this is a {kind} file, and {variant.name} needs the other kind. "
            f"For {family} checkpoints use {FAMILIES[family].notebook}."
        )


def _header(value: Any) -> tuple[tuple[int, ...], str]:
    import torch

    if not isinstance(value, torch.Tensor):
        return (), f"{type(value).__name__.lstrip('_')}, no tensor"
    dtype = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        dtype += " (sparse, quantised or without values)"
    return tuple(value.shape), dtype


def _array(tensor: Any, name: str) -> np.ndarray:
    import torch

    # By the class: the file tells a tensor's attributes, and one named `detach` would be called in the method's place.
    tensor = torch.Tensor.detach(tensor)
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError) as error:  # a view that is lazily negated, say
        raise CheckpointError(f"{name} cannot be read: {error}. Save model.state_dict() again.") from error


def _without_prefixes(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same under the model's own names, where a trainer put a part before them.

    What it keeps beside them, such as an averaged model's `n_averaged` or the loss's weights, stays as it is.
    """
    shorter = {_PREFIXES.sub("", key): value for key, value in tensors.items()}
    hidden = not _family(tensors) and _family(shorter) and len(shorter) == len(tensors)
    return shorter if hidden else tensors


def _bytes(shapes: Shapes) -> int:
    return sum(prod(shape) * (8 if key.endswith(COUNTER) else 4) for key, shape in shapes.items())
