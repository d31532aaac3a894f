"""What a checkpoint holds against what a variant needs, both ways, with all that differs said at once."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from utils.errors import CheckpointError
from utils.models.variants import Variant

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
        self._converted: dict[str, int] = {}

    def add(self, kind: str, entry: str) -> None:
        """Notes one entry under a kind, such as "missing"."""
        self._found.setdefault(kind, []).append(entry)

    def compare_keys(self, found: Collection[str], wanted: Collection[str], allowed: Collection[str]) -> None:
        """Notes missing and surplus keys; `allowed` ones are neither.

        A surplus one that is no part of the model (another name than its layers') is only told of, see `notes`.
        """
        for key in wanted:
            if key not in found:
                self.add("missing", key)
        for key in found:
            if key not in wanted and key not in allowed:
                self.add("surplus", str(key)) if _OWN.match(str(key)) else self._foreign.append(str(key))

    def compare_array(
        self, key: str, expected: tuple[tuple[int, ...], str], found: tuple[tuple[int, ...], str]
    ) -> bool:
        """Notes a wrong shape or dtype (each given as shape, dtype name); tells whether both are right.

        Where float32 is expected, what can be converted to it is right.
        """
        converted = expected[1] == "float32" and found[1] in CONVERTED
        if converted:
            self._converted[found[1]] = self._converted.get(found[1], 0) + 1
        elif found[1] != expected[1]:
            self.add("wrongly typed", f"{key}: expected {expected[1]}, found {found[1]}")
        if tuple(found[0]) != tuple(expected[0]):
            self.add("misshapen", f"{key}: expected {list(expected[0])}, found {list(found[0])}")
        return tuple(found[0]) == tuple(expected[0]) and (converted or found[1] == expected[1])

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
