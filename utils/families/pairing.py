"""In which order data go through a file's modules, and which normalisation belongs to which layer.

The order of entries is that in which modules were registered, but only in PyTorch's own format; elsewhere numbers in
names tell it. What neither tells stays open: it is never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import Any, Protocol

from utils.families.modules import BATCH_NORM, NORM, NUMBER, Module, Path, form, words

_MAX_FORMS = 50  # of the paths of layers that are side by side; hostile files have as many as entries


class Placed(Protocol):
    """What has a path, and a position where the file's order says something: a module, or several as one."""

    path: Path
    position: int | None


def in_order(items: Sequence[Any]) -> list[Any] | None:
    """`Placed` things in the order in which data go through them; None where neither file nor names tell.

    Names tell it where two differ first in a number: `blocks.2` comes before `blocks.10`, and what `norm1` and
    `norm_b` are to each other is not known. Where such numbers contradict the file's order, neither counts.
    """
    by_name = sorted(items, key=lambda item: [_natural(part) for part in item.path])
    if any(item.position is None for item in items):
        return by_name if all(numbered_before(a, b) for a, b in pairwise(by_name)) else None
    if any(numbered_before(a, b) and a.position > b.position for a, b in pairwise(by_name)):
        return None
    return sorted(items, key=lambda item: item.position)


def is_first(one: Placed, other: Placed) -> bool | None:
    """Whether data go through one of two before the other; None where that is not known."""
    order = in_order([one, other])
    return order[0] is one if order else None


def numbered_before(one: Placed, other: Placed) -> bool:
    """Whether numbers in the names say that one comes before the other."""
    for a, b in zip(one.path, other.path, strict=False):
        if a != b:
            (text, numbers), (other_text, other_numbers) = _natural(a), _natural(b)
            return text == other_text and numbers < other_numbers
    return False


def _natural(part: str) -> tuple[str, tuple[int, ...]]:
    return NUMBER.sub("#", part), tuple(map(int, NUMBER.findall(part)))


def is_next(one: Placed, other: Placed) -> bool:
    """Whether the other is the very next in a numbered list, so that nothing, not even a function, is between."""
    (*parent, last), (*other_parent, other_last) = one.path or ("",), other.path or ("",)
    numbered = parent == other_parent and last.isdecimal() and other_last.isdecimal()
    return numbered and int(other_last) == int(last) + 1


def shared(*paths: Path) -> int:
    """How many parts all of these paths have in common at their beginning."""
    return next((i for i, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), min(map(len, paths)))


def alike(one: Path, other: Path) -> int:
    """How many words and numbers two paths have in common."""
    return len(words(".".join(one)) & words(".".join(other)))


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
    for part, group in _by_part([*layers, *norms], depth).items():
        inside = [each for each in group if not _is_norm(each)], [each for each in group if _is_norm(each)]
        inner = Pairing([], [], *inside) if part is None else pair(*inside, rank, depth + 1)
        found.pairs += inner.pairs
        found.open += inner.open
        found.layers += inner.layers
        found.norms += inner.norms
    if found.layers and len(found.layers) == len(found.norms):
        _pair_side_by_side(found, rank)
    return found


def _pair_side_by_side(found: Pairing, rank: Callable[[Any], int]) -> None:
    """Pairs in order what is left in one place, as many layers as normalisations; or leaves it open or as it is."""
    by_rank = sorted(found.layers, key=rank)
    of_one_block = len({rank(layer) for layer in by_rank}) == len(by_rank)
    layers, norms = in_order(found.layers) or (by_rank if of_one_block else None), in_order(found.norms)
    two = of_one_block and len(by_rank) == 2
    if layers and norms and _go_together(layers, norms, rank) and not (two and layers != by_rank):
        found.pairs += zip(layers, norms, strict=True)
    elif two:
        found.open.append((tuple(by_rank), tuple(sorted(found.norms, key=lambda norm: norm.path))))
    else:
        return
    found.layers, found.norms = [], []


def _go_together(layers: Sequence[Any], norms: Sequence[Module], rank: Callable[[Any], int]) -> bool:
    """Whether names allow to pair these one by one, in which several blocks may lie in lists by kind of layer."""
    different = {(form(layer.path), form(norm.path)) for layer, norm in zip(layers, norms, strict=True)}
    if len(different) > _MAX_FORMS:
        return False
    if any(alike(norm, other) > alike(norm, layer) for layer, norm in different for other, _ in different):
        return False  # `ln_channel` to the token mixing
    ranks, lists = [rank(layer) for layer in layers], [_list_of(norm) for norm in norms]
    if _one_to_one(ranks, lists) or _one_to_one([_list_of(layer) for layer in layers], lists):
        return True
    block_by_block = all(a != b for a, b in pairwise(ranks))
    return block_by_block and sum(len(list(run)) > 1 for _, run in groupby(lists)) < 2


def _list_of(item: Placed) -> str:
    """The path without its last number, an index perhaps."""
    return NUMBER.sub("#", ".".join(item.path)[::-1], count=1)


def _one_to_one(some: Sequence[Any], others: Sequence[Any]) -> bool:
    return len(set(zip(some, others, strict=True))) == len(set(some)) == len(set(others))


def _is_norm(item: Placed) -> bool:
    return isinstance(item, Module) and item.kind in (NORM, BATCH_NORM)


def _by_part(items: Sequence[Any], depth: int) -> dict[str | None, list[Any]]:
    """The items by the part of their paths at `depth`; those whose path ends before are under None."""
    groups: dict[str | None, list[Any]] = {}
    for item in items:
        groups.setdefault(item.path[depth] if len(item.path) > depth else None, []).append(item)
    return groups
