"""Which of a file's sets of weights is meant, and where in it the model lies: by known names, else by their form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utils.checkpoints.contents import MAX_ENTRIES, Contents
from utils.errors import CheckpointError
from utils.families.base import COUNTER, Family, Headers, Match, NoMatchError
from utils.families.modules import modules_of, shown, split, words
from utils.families.pairing import shared

_AVERAGE = {"ema", "swa", "avg", "average", "averaged", "shadow"}  # in the name of a moving average of the weights
_FIRST = ("state_dict", "model", "params")  # where several sets lie side by side, the one that is meant
# What an optimiser keeps looks like weights; where it keeps them too, they are under "target".
_STATE = re.compile(
    r"opt|opt_state|optim\w*|mu|nu|trace|exp_avg\w*|momentum\w*|\w*scaler\w*|\w*scheduler\w*|callbacks|loops"
)
# What tools and trainers keep beside a model, none of which is computed with.
_BOOKKEEPING = re.compile(
    rf"total_ops|total_params|n_averaged|{COUNTER}|.*(loss|criterion|metric|accuracy|confmat|auroc|f1_?score).*", re.I
)
_MAX_SETS = 32  # of one file
_MAX_SPLITS = 4  # how often a file is taken apart where it holds more than the model


@dataclass(frozen=True)
class Found:
    """A model in a file.

    place: the set's name in `Contents`. prefix: what stands before the model's names in it. layout: as a `Source` has
    it; "" for one found by form, in which `match` has the readings. beside: prefixes of other models in the same place.
    """

    family: Family
    place: str
    prefix: str
    layout: str
    match: Match
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the parameter `weights` calls it."""
        return "/".join(filter(None, (self.place, self.prefix.rstrip("./"))))

    @property
    def framework_layout(self) -> str:
        """The layout whose framework trained it; among unknown names, only Flax has "kernel" and "scale"."""
        last = {split(place.key)[-1] for place in self.match.readings[0].values()}
        return "flax" if {"kernel", "scale"} <= last else self.layout

    @property
    def is_average(self) -> bool:
        """Whether it is a moving average of the weights."""
        return not _AVERAGE.isdisjoint(words(self.name))


def find(
    path: Path, contents: Contents, families: Sequence[Family], weights: str, use_ema: bool, family: str | None = None
) -> tuple[Found, str]:
    """The model that is meant, and a note on the sets that are not.

    Args:
        path: of the file, for errors.
        contents: what it holds.
        families: those that the model may be of, the likeliest first.
        weights: "auto", or the name of one of several sets.
        use_ema: whether to take the moving average of the weights.
        family: whose model is meant where the file holds others too; None where any may be.

    Raises:
        CheckpointError: there is none, or which is meant cannot be told.
    """
    sets = {name: headers for name, headers in contents.sets.items() if not _is_state(split(name))}
    reasons: dict[str, NoMatchError] = {}
    found = list(_by_names(path, sets, families))
    # A student of unknown names may lie beside its teacher of known ones.
    left = {
        place: _without(headers, [each for each in found if each.place == place]) for place, headers in sets.items()
    }
    found += _by_form(path, left, families, contents.ordered, reasons, alone=not found)
    if not found:
        raise _nothing(path, sets, families, reasons)
    chosen = _chosen(path, found, weights, use_ema, family)
    if len(chosen) > 1:
        raise CheckpointError(
            f"{path}: it holds several sets of weights, and nothing says which is meant: {_names(chosen)}. Set weights "
            "to the name of one of them."
        )
    (taken,) = chosen
    others = [each for each in found if each is not taken]
    beside = tuple(each.prefix for each in others if each.place == taken.place)
    return replace(taken, beside=beside), _note(path, taken, others)


def _chosen(path: Path, found: list[Found], weights: str, use_ema: bool, family: str | None) -> list[Found]:
    """Those that may be meant: one, if the parameters and the names in the file tell."""
    if weights != "auto":
        named = [each for each in found if each.name == weights] or [
            each for each in found if weights in split(each.name)
        ]
        if len(named) != 1 or (use_ema and not named[0].is_average):
            ema = ", and use_ema is True" if use_ema else ""
            raise CheckpointError(
                f"{path}: weights is {weights!r}{ema}; the file has {_names(found)}. Name one of them."
            )
        return named
    found = [each for each in found if each.family.name == family] or found
    average = [each for each in found if each.is_average]
    if use_ema:
        if not average:
            raise CheckpointError(
                f"{path}: use_ema is True, and the file has no moving average of the weights; it has {_names(found)}. "
                "Set use_ema to False, or give the trainer's own file."
            )
        return average
    chosen = [each for each in found if not each.is_average] or average
    first = [each for name in _FIRST for each in chosen if split(each.name)[0] == name]
    return first[:1] if first and len({split(each.name)[0] for each in first}) == len(first) else chosen


def _without(headers: Headers, found: Sequence[Found]) -> Headers:
    """What is left of a set beside these models of it."""
    prefixes = tuple(each.prefix for each in found)
    return {key: header for key, header in headers.items() if not key.startswith(prefixes)}


def _note(path: Path, taken: Found, others: Sequence[Found]) -> str:
    if not others:
        return f"{path.name}: {taken.name} was taken, the moving average of the weights." if taken.is_average else ""
    told = f"{path.name}: the file holds several sets of weights; {taken.name} was taken, not {_names(others)}."
    if any(each.is_average for each in others):
        told += " If the accuracy that you know is the moving average's, set use_ema to True."
    return told


def _names(found: Sequence[Found]) -> str:
    return ", ".join(repr(each.name)[:200] for each in found[:10])


def is_bookkeeping(part: str) -> bool:
    """Whether a part of a name says that what is there is no model's own."""
    return bool(_BOOKKEEPING.fullmatch(part))


def _is_state(parts: Sequence[str]) -> bool:
    """Whether what lies there is an optimiser's own."""
    return "target" not in parts and any(map(_STATE.fullmatch, parts))


def _by_names(path: Path, sets: Mapping[str, Headers], families: Sequence[Family]) -> Iterator[Found]:
    """Models under the names of a known layout; of those inside another one, the outer one."""
    for place, headers in sets.items():
        taken: list[str] = []
        marked = sorted(dict.fromkeys(_marked(headers, families)), key=lambda each: len(each[2]))
        if len(marked) > _MAX_SETS:
            raise CheckpointError(
                f"{path}: {place or 'it'} has the names of a model under {len(marked):,} prefixes, such as "
                f"{shown(marked[0][2])!r}. Save the one model that is meant."
            )
        for family, layout, prefix in marked:
            if any(prefix.startswith(other) for other in taken) or _is_state(split(prefix.rstrip("./"))):
                continue
            inside = {key.removeprefix(prefix): header for key, header in headers.items() if key.startswith(prefix)}
            found = Found(family, place, prefix, layout, Match([family.layout.places(layout, inside)]))
            if _is_mostly_there(found, headers):
                taken.append(prefix)
                yield found


def _is_mostly_there(found: Found, headers: Headers) -> bool:
    """Whether a known layout explains at least half of a model, or of the file: single names of it are others' too."""
    (places,), layout = found.match.readings, found.family.layout
    shapes = {key: place.shape_of(headers[found.prefix + place.key][0]) for key, place in places.items()}
    try:
        wanted = layout.shapes(layout.architecture(shapes))
    except NoMatchError:
        return 2 * len(places) >= sum(key.startswith(found.prefix) for key in headers)
    return 2 * len(wanted.keys() & shapes) >= len(wanted)


def _marked(headers: Headers, families: Sequence[Family]) -> Iterator[tuple[Family, str, str]]:
    """Family, layout and prefix of every mark in the names."""
    for family in families:
        for layout, marks in family.layout.MARKS.items():
            for mark in marks:
                first, *others = sorted(mark)
                for key in headers:
                    prefix = key.removesuffix(first)
                    if prefix == key or (prefix and prefix[-1] not in "./"):
                        continue
                    if all(prefix + other in headers for other in others):
                        yield family, layout, prefix


def _by_form(
    path: Path,
    sets: Mapping[str, Headers],
    families: Sequence[Family],
    ordered: bool,
    reasons: dict[str, NoMatchError],
    alone: bool,
) -> Iterator[Found]:
    """Models under unknown names; why there is none goes into `reasons`. alone: whether no model has known names."""
    for place, everything in sets.items():
        headers = {key: header for key, header in everything.items() if not _is_state(split(key))}
        if len(headers) > MAX_ENTRIES:
            if not alone:
                continue
            raise CheckpointError(
                f"{path}: {place or 'it'} has {len(headers):,} entries, more than the {MAX_ENTRIES:,} in which a "
                "model of unknown names is looked for. Save the model's own state dict alone."
            )
        for family in families:
            try:
                found = _in_tree(family, place, "", headers, ordered, _MAX_SPLITS, alone)
            except NoMatchError as error:
                reasons.setdefault(family.name, error)
                continue
            yield from found
            headers, alone = _without(headers, found), False


def _in_tree(
    family: Family, place: str, prefix: str, headers: Headers, ordered: bool, splits: int, alone: bool
) -> list[Found]:
    """The model in a tree of names, or those in its branches, if it is none as a whole. NoMatchError for the whole."""
    own = {key: header for key, header in headers.items() if not is_bookkeeping(split(key.removeprefix(prefix))[0])}
    try:
        match = family.layout.match(modules_of(own, ordered))
        return [Found(family, place, prefix if alone else _common_prefix(match), "", match)]
    except NoMatchError:
        found = []
        depth = len(split(prefix)) - 1
        branches: dict[str, dict] = {}
        for key, header in headers.items():
            if len(split(key)) > depth + 1:
                branches.setdefault(_beginning(key, depth + 1), {})[key] = header
        for inner, each in branches.items() if splits else ():
            if len(each) > 4:  # fewer are no model
                try:
                    found += _in_tree(family, place, inner, each, ordered, splits - 1, alone)
                except NoMatchError:
                    continue
        if not found:
            raise
        return found


def _common_prefix(match: Match) -> str:
    """What the names of a model begin with, by which it is told from others in the same place."""
    keys = [place.key for place in match.readings[0].values()]
    return _beginning(keys[0], shared(*map(split, keys)))


def _beginning(key: str, parts: int) -> str:
    """The first parts of a key with the separators behind them."""
    return key[: sum(map(len, split(key)[:parts])) + parts]


def _nothing(
    path: Path, sets: Mapping[str, Headers], families: Sequence[Family], reasons: Mapping[str, NoMatchError]
) -> CheckpointError:
    lines = [f"{path}: no {' or '.join(family.title for family in families)} is in this file."]
    lines += [f"  {reason}" for error in reasons.values() for reason in error.reasons]
    if not any(sets.values()):
        lines.append("  It holds no weights.")
    return CheckpointError("\n".join(lines))
