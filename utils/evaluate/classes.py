"""Which of a model's classes a folder, or a data set's class, means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from utils.errors import EvaluationError
from utils.images.labels import Label

_IMAGENET_1K = 1000  # classes; as many folders, numbered from 0, are ImageNet-1k's whatever the model is
_LISTED = 10  # names in an error message; the count says how many there are
RULES = ("WordNet id", "class name", "class index")


def match_classes(names: Sequence[str], labels: Sequence[Label] | None, classes: int) -> tuple[list[int], str]:
    """The index of the model's class for each of `names`, and the rule that found it, one of `RULES`.

    The first rule that fits every name is taken: the WordNet id of the model's labels (n01440764); the class's name
    there, whole or up to its first comma, blanks or underscores, capitals or not; the index from 0 to `classes` - 1,
    with or without leading zeros. A name that two classes share, as ImageNet's two cranes do, fits neither.

    `labels` is None for a model without any: then only the index is left. EvaluationError names what fits no rule.
    """
    if len(set(names)) != len(names):
        raise EvaluationError("The data's class names are not all different, so they cannot tell classes apart.")
    rules = {rule: _indices(rule, names, labels or (), classes) for rule in RULES}
    best = max(RULES, key=lambda rule: len(rules[rule]))  # of equals the first
    found = rules[best]
    if best == "class index" and classes != _IMAGENET_1K and sorted(found.values()) == list(range(_IMAGENET_1K)):
        raise EvaluationError(
            f"The data's classes are 0 to {_IMAGENET_1K - 1}, ImageNet-1k's numbers, and this model has {classes:,} "
            "classes of its own order: it would be scored for the wrong ones. Name the folders by WordNet id."
        )
    if unknown := [name for name in names if name not in found]:
        raise EvaluationError(_explain(unknown, len(names), best, labels, classes))
    return [found[name] for name in names], best


def _indices(rule: str, names: Iterable[str], labels: Sequence[Label], classes: int) -> Mapping[str, int]:
    """Index by name, of the names that the rule fits."""
    if rule == "class index":
        numbers = {name: int(name) for name in names if name.isascii() and name.isdecimal()}
        return {name: number for name, number in numbers.items() if number < classes}
    if rule == "WordNet id":
        known = _unambiguous((label.wordnet_id, index) for index, label in enumerate(labels))
        return {name: known[name] for name in names if name in known}
    pairs = [(_plain(label.name), index) for index, label in enumerate(labels)]
    pairs += [(_plain(label.name.split(",")[0]), index) for index, label in enumerate(labels)]
    known = _unambiguous(pairs)
    return {name: known[_plain(name)] for name in names if _plain(name) in known}


def _unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    meanings: dict[str, set[int]] = {}
    for key, index in pairs:
        meanings.setdefault(key, set()).add(index)
    return {key: indices.pop() for key, indices in meanings.items() if len(indices) == 1}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _explain(unknown: list[str], count: int, rule: str, labels: Sequence[Label] | None, classes: int) -> str:
    listed = ", ".join(map(repr, unknown[:_LISTED])) + (", …" if len(unknown) > _LISTED else "")
    if labels is None:
        choice = f"The model has no labels.tsv, so its classes go by their index, 0 to {classes - 1}."
    else:
        first = labels[0]
        choice = (
            f"Name all by the WordNet ids of the model's classes (such as {first.wordnet_id}), all by their names "
            f"(such as {first.name.split(',')[0]!r}; one that two classes share will not do), or all by their index "
            f"(0 to {classes - 1})."
        )
    fitted = f"; the others do by {rule}" if len(unknown) < count else ""
    return f"{len(unknown)} of the data's {count} classes are not the model's{fitted}: {listed}. {choice}"
