"""What a checkpoint holds against what a variant needs, both ways, with all that differs said at once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from utils.errors import CheckpointError
from utils.families.base import COUNTER
from utils.families.variants import Variant

Headers = Mapping[str, tuple[tuple[int, ...], str]]  # shape and dtype name by key
_LISTED = 10  # of each kind; the count says how many there are
_SHOWN = 200  # characters of one: a file may name its entries as it likes
# What is converted to float32: the first two without loss.
CONVERTED = ("float16", "bfloat16", "float64")
# First part of the names of a model's own layers. A file with more of these is of another model: to leave out a
# block, a norm in the stem or an adapter would change what is computed, and nobody would know.
_OWN = re.compile(r"(stem|blocks|head|MixerBlock_\d+|pre_head_layer_norm|module|\d+)[./]")


class Problems:
    """Differences between a file and a variant, until `raise_if_any` makes them one CheckpointError."""

    def __init__(self, path: Path, variant: Variant, resembled: Collection[str] = ()) -> None:
        self.path = path
        self.variant = variant
        self.resembled = resembled  # other variants that the file's keys and shapes fit
        self._found: dict[str, list[str]] = {}
        self._foreign: list[str] = []
        self._converted: Counter[str] = Counter()

    def add(self, kind: str, entry: str) -> None:
        """Notes one entry under a kind, such as "missing"."""
        self._found.setdefault(kind, []).append(entry)

    def compare(self, found: Headers, wanted: Mapping[str, tuple[int, ...]], allowed: Collection[str]) -> None:
        """Notes missing and surplus keys, and wrong shapes and dtypes; of `allowed` keys nothing.

        A surplus one that is no part of the model (another name than its layers') is only told of, see `notes`; and so
        is a dtype that can be converted to float32.
        """
        for key in wanted:
            if key not in found:
                self.add("missing", key)
        for key in map(str, found):
            if key not in wanted and key not in allowed:
                self.add("surplus", key) if _OWN.match(key) else self._foreign.append(key)
        for key in filter(found.__contains__, wanted):
            shape, dtype = found[key]
            expected = "int64" if key.endswith(COUNTER) else "float32"
            if expected == "float32" and dtype in CONVERTED:
                self._converted[dtype] += 1
            elif dtype != expected:
                self.add("wrongly typed", f"{key}: expected {expected}, found {dtype}")
            if tuple(shape) != wanted[key]:
                self.add("misshapen", f"{key}: expected {list(wanted[key])}, found {list(shape)}")

    def check_values(self, key: str, array: np.ndarray) -> None:
        """Notes NaN, infinity, and a variance below zero."""
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            nan, infinite = int(np.isnan(array).sum()), int(np.isinf(array).sum())
            self.add("not finite", f"{key}: {nan} NaN and {infinite} infinite of {array.size} values")
        elif key.endswith("running_var") and (array < 0).any():
            self.add("negative variance", f"{key}: smallest {array.min():g}")

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

    def raise_if_any(self) -> None:
        """CheckpointError that lists, by kind, what was noted."""
        if not self._found:
            return
        for key in self._foreign:  # by another name, what is missing may be here
            self.add("surplus", key)
        self._foreign = []
        lines = [f"{self.path}: this is not a sound checkpoint of {self.variant.name}."]
        for kind, entries in self._found.items():
            lines.append(f"  {len(entries)} {kind}: {_some(entries)}")
        lines.append(f"  {self._advice()}")
        raise CheckpointError("\n".join(lines))

    def _advice(self) -> str:
        if self.resembled:
            return f"It looks like {' or '.join(self.resembled)}: set variant to that, or give another file."
        if "wrongly typed" in self._found:
            return (
                f"Weights may be float32, or {', '.join(CONVERTED)}, which are converted; counters are int64: "
                "save the model in float32 again."
            )
        if self._found.keys() & {"not finite", "negative variance"}:
            wide = " Or its float64 values are too large for float32." if "float64" in self._converted else ""
            return f"The file is damaged, or its training diverged: get it again, or use an earlier checkpoint.{wide}"
        if self._found.keys() == {"missing"} and all(key.startswith("head") for key in self._found["missing"]):
            return "Of a file without a classifier there are only features: set head to 'fe', or give another file."
        return f"Give a file of {self.variant.architecture}."


def _some(entries: list[str]) -> str:
    more = f"; and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    shown = (entry if entry.isprintable() else ascii(entry) for entry in entries[:_LISTED])
    return "; ".join(entry if len(entry) <= _SHOWN else f"{entry[:_SHOWN]}…" for entry in shown) + more
