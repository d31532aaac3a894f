"""A file's entries as the modules of a network, for names of any kind.

A module is what lies under one path: a convolution, a dense layer or a normalisation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from utils.families.base import COUNTER, Headers, NoMatchError, Place
from utils.text import printed

CONVOLUTION, DENSE, NORM, BATCH_NORM = "convolution", "dense layer", "normalisation", "BatchNorm"
_PARTS = {
    **dict.fromkeys(("weight", "kernel", "scale", "gamma"), "weight"),
    **dict.fromkeys(("bias", "beta", "offset"), "bias"),
    **dict.fromkeys(("running_mean", "moving_mean"), "running_mean"),
    **dict.fromkeys(("running_var", "moving_variance"), "running_var"),
    COUNTER: COUNTER,
}
_SEPARATOR = re.compile(r"[./]")
NUMBER = re.compile(r"\d{1,9}")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_SHOWN = 200  # characters of a name: a file may give its entries any
_LISTED = 5  # in an error
_MAX_DEPTH = 32  # parts of a path; deeper ones are no model's
Path = tuple[str, ...]


@dataclass(frozen=True)
class Module:
    """One layer of a file.

    path: the parts of its name. shape: of its weight in PyTorch's order, [out, in, ...]; a dense layer has two sizes.
    places: of its arrays by "weight", "bias", "running_mean", "running_var" and the counter, in PyTorch's axes.
    position: in the file's order; None where that says nothing.
    """

    path: Path
    kind: str
    shape: tuple[int, ...]
    places: dict[str, Place] = field(compare=False)
    position: int | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """In the file's own words, with the shape of its weight."""
        return f"{shown(self.places['weight'].key)} {list(self.shape)}"


def shown(key: str) -> str:
    """A name from a file, short and without control characters."""
    return printed(key if len(key) <= _SHOWN else f"{key[:_SHOWN]}…")


def split(key: str) -> Path:
    """The parts of a key."""
    return tuple(_SEPARATOR.split(key))


def form(path: Path) -> Path:
    """The path without its numbers, which a layer has in common with the same layer of every block."""
    return tuple(NUMBER.sub("#", part) for part in path)


def words(text: str) -> set[str]:
    """The words and numbers in a name, in lower case and without the s of a plural."""
    return {word.lower().removesuffix("s") for word in _WORD.findall(text)}


def modules_of(headers: Headers, ordered: bool) -> list[Module]:
    """The modules of a file; entries that are none's are left out.

    ordered: whether the format keeps the order in which the model registered its entries.
    """
    groups: dict[Path, dict[str, str]] = {}
    for key in headers:
        *path, last = split(key)
        part = _PARTS.get(last)
        if part and len(path) <= _MAX_DEPTH:
            groups.setdefault(tuple(path), {}).setdefault(part, key)
    # PyTorch registers a weight before its bias. Where a bias comes first, somebody sorted or reversed the entries.
    ordered = ordered and all(next(iter(keys)) == "weight" for keys in groups.values() if "weight" in keys)
    found = (
        _module(path, keys, headers, index if ordered else None) for index, (path, keys) in enumerate(groups.items())
    )
    return [module for module in found if module]


def _module(path: Path, keys: dict[str, str], headers: Headers, position: int | None) -> Module | None:
    if "weight" not in keys:
        return None
    key = keys["weight"]
    shape, _ = headers[key]
    backwards = split(key)[-1] == "kernel"  # of JAX and Keras: what goes in before what comes out
    places = {part: Place(each) for part, each in keys.items()}
    if len(shape) == 1:
        kind = BATCH_NORM if {"running_mean", "running_var"} <= keys.keys() else NORM
    elif len(shape) == 4:
        kind = CONVOLUTION
        axes = (3, 2, 0, 1) if backwards else None
        places["weight"] = Place(key, axes=axes)
        shape = places["weight"].shape_of(shape)
    elif len(shape) == 2 or (len(shape) == 3 and shape[2] == 1 and not backwards):  # Conv1d over one position
        kind = DENSE
        places["weight"] = Place(key, shape[:2] if len(shape) == 3 else None, (1, 0) if backwards else None)
        shape = places["weight"].shape_of(shape[:2])
    else:
        return None
    return Module(path, kind, shape, places, position)


def listed(modules: Sequence[Module]) -> str:
    """A few of them in the file's own words, those first whose kind of name and shape is rare."""
    counts = Counter((form(module.path), module.shape) for module in modules)
    rarest = sorted(modules, key=lambda module: counts[form(module.path), module.shape])
    more = f" and {len(modules) - _LISTED} more" if len(modules) > _LISTED else ""
    return (", ".join(module.name for module in rarest[:_LISTED]) or "none") + more


def require_biases(modules: Sequence[Module]) -> None:
    """NoMatchError for a layer without bias: to add one, of zeros, would make another model to train."""
    if lacking := [module for module in modules if "bias" not in module.places]:
        raise NoMatchError(f"These have no bias, and the models here have: {listed(lacking)}.")
