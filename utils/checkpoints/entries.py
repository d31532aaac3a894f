"""A checkpoint's entries under a variant's canonical keys, and how they differ from what the variant needs."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

from utils.checkpoints.contents import Contents
from utils.checkpoints.sets import Found, is_bookkeeping
from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.base import COUNTER, Header, Headers, Patches, Place, Places, Shapes
from utils.families.modules import DENSE, NORM, modules_of, shown, split
from utils.families.pairing import shared
from utils.families.variants import OWN, Variant

# What is converted to float32: the first two without loss.
_CONVERTED = ("float16", "bfloat16", "float64")
# Of a layer that normalises images before the model.
_NORMALISING = re.compile(r".*(^|[._])(mean|std|pixel_mean|pixel_std|image_mean|image_std)$")
_LISTED = 10  # of each kind; the count says how many there are


class Entries:
    """The model's own entries of a file, and what else is there.

    headers: shape in the canonical axes and dtype name, by canonical key. places: where each is. After `sort_others`,
    surplus: keys of what may be the model's own; foreign: of what is no part of it; normalising: of layers before it.
    """

    def __init__(self, contents: Contents, found: Found, places: Places) -> None:
        self._contents, self._set, self._prefix, self._beside = contents, found.place, found.prefix, found.beside
        self._everything = contents.sets[found.place]
        before = found.prefix if found.layout else ""  # what was found by its form has whole names
        self.headers: dict[str, Header] = {}
        self.places: Places = {}
        for canonical, place in places.items():
            self._add(canonical, place._replace(key=f"{before}{place.key}"))

    def _add(self, canonical: str, place: Place) -> None:
        shape, dtype = self._everything[place.key]
        self.places[canonical], self.headers[canonical] = place, (place.shape_of(shape), dtype)

    @property
    def _others(self) -> Headers:
        used = {place.key for place in self.places.values()}
        return {key: header for key, header in self._everything.items() if key not in used}

    def find_head(self, keys: tuple[str, str], width: int) -> None:
        """Takes the one dense layer behind `width` features for the classifier, if that has no known name."""
        if any(key in self.headers for key in keys):
            return
        heads = [
            module
            for module in modules_of(self._others, ordered=False)
            if module.kind == DENSE and module.shape[1] == width and self._is_nearest(module.path)
        ]
        if len(heads) != 1 or "bias" not in heads[0].places:
            return
        weight, backwards = heads[0].places["weight"], keys[0].endswith("kernel")
        axes = weight.axes if not backwards else None if weight.axes else (1, 0)
        self._add(keys[0], weight._replace(axes=axes))
        self._add(keys[1], heads[0].places["bias"])

    def _is_nearest(self, path: tuple[str, ...]) -> bool:
        """Whether no other model of the file is nearer to this path."""
        own, *others = (shared(path, split(prefix)[:-1]) for prefix in (self._prefix, *self._beside))
        return all(own > other for other in others)

    def sort_others(self, width: int) -> None:
        """Tells what is left by whether it may be the model's own. width: of its features."""
        others = self._others
        self.normalising = [key for key in others if _NORMALISING.match(key)]
        self.surplus = [key for key in self._own(others, width) if not _NORMALISING.match(key)]
        told = {*self.surplus, *self.normalising}
        self.foreign = [key for key in others if key not in told]

    def _own(self, others: Headers, width: int) -> list[str]:
        """Keys that may be the model's: beside its layers, of a layer's form, or as wide as its features."""
        prefix = self._prefix
        inside = {key: header for key, header in others.items() if key.startswith(prefix)}
        modules = modules_of(inside, ordered=False)
        layers = {
            place.key
            for module in modules
            if module.kind != NORM or "bias" in module.places
            for place in module.places.values()
        }
        used = [place.key for place in self.places.values()]
        tops = {split(key.removeprefix(prefix))[0] for key in used if key.startswith(prefix)}
        numbered = any(top.isdecimal() for top in tops)
        found = []
        for key, (shape, _) in inside.items():
            top, *_ = *_, last = split(key.removeprefix(prefix))
            if is_bookkeeping(top) or is_bookkeeping(last):
                continue
            beside = top in tops or (numbered and top.isdecimal())
            if beside or key in layers or (width > 1 and width in shape):
                found.append(key)
        return found

    @property
    def shapes(self) -> Shapes:
        """Shape by canonical key."""
        return {key: shape for key, (shape, _) in self.headers.items()}

    def key(self, canonical: str) -> str:
        """The file's own name; the canonical one where the file has none."""
        return self.places[canonical].key if canonical in self.places else canonical

    def read(self, keys: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The arrays of these canonical keys, one after the other. Raises CheckpointError."""
        arrays = self._contents.read(self._set, [self.places[key].key for key in keys])
        for key, array in zip(keys, arrays, strict=True):
            yield key, self.places[key].of(array)


class Problems:
    """Differences between a file and a variant, until `raise_if_any` makes them one CheckpointError.

    sizes: what the file has, where they are known to be others than the variant's.
    """

    def __init__(self, path: Path, variant: Variant, sizes: Patches | None = None) -> None:
        self.path, self.variant, self._sizes = path, variant, sizes
        self._found: dict[str, list[str]] = defaultdict(list)
        self._foreign: list[str] = []
        self._normalising: list[str] = []
        self._converted: Counter[str] = Counter()

    def compare(self, entries: Entries, wanted: Shapes) -> None:
        """Notes missing and surplus keys, and wrong shapes and dtypes.

        A dtype that can be converted to float32 is left for `notes`, and so is what is no part of the model.
        """
        self._foreign, self._normalising = entries.foreign, entries.normalising
        known = self.variant.shapes  # worked out each time that it is asked for
        surplus = [entries.key(canonical) for canonical in entries.headers if canonical not in known]
        if surplus or entries.surplus:
            self._found["surplus"] += surplus + entries.surplus
        for canonical, expected_shape in wanted.items():
            key = entries.key(canonical)
            if canonical not in entries.headers:
                self._found["missing"].append(key)
                continue
            shape, dtype = entries.headers[canonical]
            expected = "int64" if canonical.endswith(COUNTER) else "float32"
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
                f"{self.path.name}: {len(self._foreign)} entries are no part of the model and were left out: "
                f"{_some(self._foreign)}."
            )
        if self._normalising:
            notes.append(
                f"{self.path.name}: the model normalised its images inside, by {_some(self._normalising)}. What is "
                "made here begins behind that: its inputs are normalised images."
            )
        return notes

    def raise_if_any(self, resembled: Collection[str] = ()) -> None:
        """CheckpointError that lists, by kind, what was noted; `resembled`: other variants that the file fits."""
        if not self._found:
            return
        if self._foreign:  # by another name, what is missing may be here
            self._found["surplus"] += self._foreign
        title = FAMILIES[self.variant.family].title
        whose = f"a {title}" if self.variant.name == OWN else self.variant.name
        lines = [f"{self.path}: this is not a sound checkpoint of {whose}."]
        lines += [f"  {len(entries)} {kind}: {_some(entries)}" for kind, entries in self._found.items()]
        if resembled:
            advice = (
                f"It looks like {' or '.join(resembled)}: set variant to that, or to {OWN!r}, which takes any sizes."
            )
        elif self._sizes:
            advice = f"The file has the sizes of {self._sizes}: set variant to {OWN!r}, which takes any."
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
    return "; ".join(map(shown, entries[:_LISTED])) + more
