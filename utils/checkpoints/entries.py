"""A checkpoint's entries under a variant's canonical keys, and how they differ from what the variant needs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from utils.checkpoints.contents import Contents, Header
from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.base import COUNTER, Shapes
from utils.families.variants import Variant

_PREFIXES = re.compile(r"^((module|_orig_mod|model)\.)+")  # of parallel training, torch.compile, PyTorch Lightning
# What is converted to float32: the first two without loss.
_CONVERTED = ("float16", "bfloat16", "float64")
# First part of the names of a model's own layers. A file with more of these is of another model: to leave out a
# block, a norm in the stem or an adapter would change what is computed, and nobody would know.
_OWN = re.compile(r"(stem|blocks|head|MixerBlock_\d+|pre_head_layer_norm|module|\d+)[./]")
_LISTED = 10  # of each kind; the count says how many there are
_SHOWN = 200  # characters of one: a file may name its entries as it likes


class Entries:
    """The contents of a file.

    family: whose keys they are, if any; if another than the variant's, they stay as they are. layout: as a `Source` has
    it. headers: shape in the canonical axes and dtype name, by canonical key; a key of no
    layout stays as it is, to be reported.
    """

    def __init__(self, contents: Contents, variant: Variant) -> None:
        self._contents = contents
        names, self.family = _own_names(contents.headers)
        self.layout, renamed = FAMILIES[variant.family].layout.keys_of(variant.architecture, names)
        self.headers: dict[str, Header] = {}
        self._places = {}  # the file's key, and the order of its axes, by canonical key
        for name, key in names.items():
            canonical, axes = renamed.get(name, (name, None))
            shape, dtype = contents.headers[key]
            if axes and len(shape) == len(axes):
                shape = tuple(shape[axis] for axis in axes)
            self.headers[canonical] = shape, dtype
            self._places[canonical] = key, axes

    @property
    def shapes(self) -> Shapes:
        """Shape by canonical key."""
        return {key: shape for key, (shape, _) in self.headers.items()}

    def read(self, keys: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of these canonical keys, one after the other. Raises CheckpointError."""
        arrays = self._contents.read([self._places[key][0] for key in keys])
        for key, array in zip(keys, arrays, strict=True):
            axes = self._places[key][1]
            if axes:
                array = array.transpose(axes)
            # A copy only if it was transposed; ascontiguousarray makes a scalar one-dimensional.
            yield key, np.ascontiguousarray(array).reshape(array.shape)


def _own_names(keys: Collection[str]) -> tuple[dict[str, str], str | None]:
    """A file's keys by the model's own names, without what a trainer put before them, and the family that has such.

    What a trainer keeps beside them, such as an averaged model's `n_averaged` or the loss's weights, stays as it is.
    """
    as_they_are = {key: key for key in keys}
    for names in (as_they_are, {_PREFIXES.sub("", key): key for key in keys}):
        family = next((name for name, family in FAMILIES.items() if family.layout.MARKS & names.keys()), None)
        if family and len(names) == len(keys):
            return names, family
    return as_they_are, None


class Problems:
    """Differences between a file and a variant, until `raise_if_any` makes them one CheckpointError."""

    def __init__(self, path: Path, variant: Variant) -> None:
        self.path = path
        self.variant = variant
        self._found: dict[str, list[str]] = defaultdict(list)
        self._foreign: list[str] = []
        self._converted: Counter[str] = Counter()

    def compare(self, found: Mapping[str, Header], wanted: Shapes, allowed: Collection[str]) -> None:
        """Notes missing and surplus keys, and wrong shapes and dtypes; of `allowed` keys nothing.

        A surplus one that is no part of the model (another name than its layers') is left for `notes`, and so is a
        dtype that can be converted to float32.
        """
        for key in found:
            if key not in wanted and key not in allowed:
                (self._found["surplus"] if _OWN.match(key) else self._foreign).append(key)
        for key, expected_shape in wanted.items():
            if key not in found:
                self._found["missing"].append(key)
                continue
            shape, dtype = found[key]
            expected = "int64" if key.endswith(COUNTER) else "float32"
            if expected == "float32" and dtype in _CONVERTED:
                self._converted[dtype] += 1
            elif dtype != expected:
                self._found["wrongly typed"].append(f"{key}: expected {expected}, found {dtype}")
            if shape != expected_shape:
                self._found["misshapen"].append(f"{key}: expected {list(expected_shape)}, found {list(shape)}")

    def check_values(self, key: str, array: np.ndarray) -> None:
        """Notes NaN, infinity, and a variance below zero."""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
            self._found["not finite"].append(f"{key}: {nan} NaN and {infinite} infinite of {array.size} values")
        elif key.endswith("running_var") and (array < 0).any():
            self._found["negative variance"].append(f"{key}: smallest {array.min():g}")

    def notes(self) -> list[str]:
        """What is no error, and the user must know all the same."""
        notes = []
        for dtype, count in self._converted.items():
            loss = "which loses digits" if dtype == "float64" else "without loss"
            notes.append(f"{self.path.name}: {count} arrays are {dtype}; they were converted to float32, {loss}.")
        if self._foreign:
            notes.append(
                f"{self.path.name}: {len(self._foreign)} entries are no part of {self.variant.name} and were left out: "
                f"{_some(self._foreign)}."
            )
        return notes

    def raise_if_any(self, resembled: Collection[str] = ()) -> None:
        """CheckpointError that lists, by kind, what was noted; `resembled`: other variants that the file fits."""
        if not self._found:
            return
        if self._foreign:  # by another name, what is missing may be here
            self._found["surplus"] += self._foreign
        lines = [f"{self.path}: this is not a sound checkpoint of {self.variant.name}."]
        lines += [f"  {len(entries)} {kind}: {_some(entries)}" for kind, entries in self._found.items()]
        if resembled:
            advice = f"It looks like {' or '.join(resembled)}: set variant to that, or give another file."
        else:
            advice = self._advice()
        raise CheckpointError("\n".join([*lines, f"  {advice}"]))

    def _advice(self) -> str:
        if "wrongly typed" in self._found:
            return (
                f"Weights may be float32, or {', '.join(_CONVERTED)}, which are converted; counters are int64: "
                "save the model in float32 again."
            )
        if self._found.keys() & {"not finite", "negative variance"}:
            wide = " Or its float64 values are too large for float32." if "float64" in self._converted else ""
            return f"The file is damaged, or its training diverged: get it again, or use an earlier checkpoint.{wide}"
        if self._found.keys() == {"missing"} and all(key.startswith("head") for key in self._found["missing"]):
            return "A file without a classifier gives features only: set head to 'fe', or give another file."
        return f"Give a file of {self.variant.architecture}."


def _some(entries: list[str]) -> str:
    more = f"; and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    shown = (entry if entry.isprintable() else ascii(entry) for entry in entries[:_LISTED])
    return "; ".join(entry if len(entry) <= _SHOWN else f"{entry[:_SHOWN]}…" for entry in shown) + more
