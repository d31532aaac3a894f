"""A file's entries as the modules of a network, and what their names say of their order: for names of any kind.

A module is what lies under one path: a convolution, a dense layer or a normalisation. The order of entries says in
which order modules were registered, but only in PyTorch's own format; elsewhere numbers in names do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

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
_NUMBER = re.compile(r"\d{1,9}")
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


def modules_of(headers: Headers, ordered: bool) -> tuple[list[Module], list[str]]:
    """The modules of a file, and the keys that are none's.

    ordered: whether the order of the entries is that of registration.
    """
    found, left = [], []
    groups: dict[Path, dict[str, str]] = {}
    for key in headers:
        *path, last = split(key)
        part = _PARTS.get(last)
        if part is None or len(path) > _MAX_DEPTH or part in groups.get(tuple(path), {}):
            left.append(key)
        else:
            groups.setdefault(tuple(path), {})[part] = key
    for index, (path, keys) in enumerate(groups.items()):
        module = _module(path, keys, headers, index if ordered else None)
        if module:
            found.append(module)
        else:
            left += keys.values()
    return found, left


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
    """A few of them in the file's own words, those first whose kind of name and form is rare."""
    counts = Counter(_form(module) for module in modules)
    rarest = sorted(modules, key=lambda module: counts[_form(module)])
    more = f" and {len(modules) - _LISTED} more" if len(modules) > _LISTED else ""
    return (", ".join(module.name for module in rarest[:_LISTED]) or "none") + more


def _form(module: Module) -> tuple[Path, tuple[int, ...]]:
    return tuple(_NUMBER.sub("#", part) for part in module.path), module.shape


def require_biases(modules: Sequence[Module]) -> None:
    """NoMatchError for a layer without bias: to add one, of zeros, would make another model to train."""
    if lacking := [module for module in modules if "bias" not in module.places]:
        raise NoMatchError(f"These have no bias, and the models here have: {listed(lacking)}.")


def in_order(modules: Sequence[Any]) -> list[Any] | None:
    """`Placed` things in the order in which data go through them; None where neither file nor names tell.

    Names tell it where two differ first in a number: `blocks.2` comes before `blocks.10`, and what `norm1` and
    `norm_b` are to each other is not known.
    """
    if all(module.position is not None for module in modules):
        return sorted(modules, key=lambda module: module.position)
    found = sorted(modules, key=_by_name)
    return found if all(_is_before(a.path, b.path) for a, b in pairwise(found)) else None


def _by_name(module: Placed) -> list[tuple[str, tuple[int, ...]]]:
    return [_natural(part) for part in module.path]


def _natural(part: str) -> tuple[str, tuple[int, ...]]:
    return _NUMBER.sub("#", part), tuple(map(int, _NUMBER.findall(part)))


def _is_before(first: Path, second: Path) -> bool:
    for a, b in zip(first, second, strict=False):
        if a != b:
            (words, numbers), (others, more) = _natural(a), _natural(b)
            return words == others and numbers < more
    return False


class Placed(Protocol):
    """What has a path, and a position where the file's order says something: a module, or several as one."""

    path: Path
    position: int | None


@dataclass
class Pairing:
    """Which normalisation belongs to which layer.

    pairs: those that paths and order tell. open: for a layer and another, in the data's order, two normalisations of
    which it is not known which is whose. layers, norms: what is left.
    """

    pairs: list[tuple[Any, Module]] = field(default_factory=list)
    open: list[tuple[tuple[Any, Any], tuple[Module, Module]]] = field(default_factory=list)
    layers: list[Any] = field(default_factory=list)
    norms: list[Module] = field(default_factory=list)

    def readings(self) -> list[list[tuple[Any, Module]]]:
        """Every way to pair them all: what is open, is so in the same way in every block."""
        if not self.open:
            return [self.pairs]
        return [
            self.pairs + [pair for layers, norms in self.open for pair in zip(layers, norms[::turn], strict=True)]
            for turn in (1, -1)
        ]


def pair(layers: Sequence[Any], norms: Sequence[Module], rank: Callable[[Any], int], depth: int = 0) -> Pairing:
    """Gives each layer the normalisation with which it shares the longest path, in order where several do.

    Args:
        layers: `Placed`.
        norms: as many, or more.
        rank: a layer's place in a block.
        depth: how many parts of the path all of them share.
    """
    found = Pairing()
    for part, group in _by_part([*layers, *norms], depth):
        inside = [each for each in group if not _is_norm(each)], [each for each in group if _is_norm(each)]
        inner = Pairing([], [], *inside) if part is None else pair(*inside, rank, depth + 1)
        found.pairs += inner.pairs
        found.open += inner.open
        found.layers += inner.layers
        found.norms += inner.norms
    if found.layers and len(found.layers) == len(found.norms):
        there, after = in_order(found.layers), in_order(found.norms)
        by_rank = sorted(found.layers, key=rank)
        if len({rank(each) for each in by_rank}) == len(by_rank) == 2 and (not after or there not in (None, by_rank)):
            found.open.append((tuple(by_rank), tuple(sorted(found.norms, key=_by_name))))
        elif after and (there or len({rank(each) for each in by_rank}) == len(by_rank)):
            found.pairs += zip(there or by_rank, after, strict=True)
        else:
            return found
        found.layers, found.norms = [], []
    return found


def _is_norm(item: Placed) -> bool:
    return isinstance(item, Module) and item.kind in (NORM, BATCH_NORM)


def _by_part(items: Sequence[Any], depth: int) -> Iterator[tuple[str | None, list[Any]]]:
    """The items by the part of their paths at `depth`; those whose path ends before are under None."""
    groups: dict[str | None, list[Any]] = {}
    for item in items:
        groups.setdefault(item.path[depth] if len(item.path) > depth else None, []).append(item)
    yield from groups.items()
