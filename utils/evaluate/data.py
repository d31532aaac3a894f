"""Labelled photographs, and which of a model's classes their labels mean.

A folder with a sub-folder per class, or a data set of TensorFlow Datasets: both give the files' own bytes, in one fixed
order, from any position on. So a stopped evaluation can go on, and what decodes and resizes them is the same for both.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.errors import EvaluationError, ParameterError
from utils.images.labels import Label
from utils.images.photographs import SUFFIXES, images_by_class, is_image
from utils.images.tfds import open_tfds, read_tfds

_TFDS_NAME = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_.-]+)?(:[0-9.*]+)?")  # name/config:version
_SPLITS = ("validation", "test")  # ImageNet's and ImageNetV2's


class Example(NamedTuple):
    """A file: its name, the index of its class in the model's order, and how to get its bytes."""

    name: str
    label: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Data:
    """What is evaluated on: `count` files, and `examples(start)`, which gives those from a position on.

    rule: how the classes were matched. sha256: of the listing of the files, not of what is in them.
    """

    name: str
    kind: str
    rule: str
    classes: int
    count: int
    sha256: str
    examples: Callable[[int], Iterator[Example]]


def open_data(
    data: str,
    labels: Sequence[Label] | None,
    classes: int,
    limit: int | None = None,
    split: str | None = None,
    data_dir: str | None = None,
) -> Data:
    """Opens a folder, or what TensorFlow Datasets has (or downloads, or prepares) under that name.

    limit: use that many files at most: of a folder, which is sorted by class, spread evenly; of a data set, the first.
    split: of a data set; by default "validation", else "test". data_dir: where its files are, by default
    `~/tensorflow_datasets`. EvaluationError for data that are not there, or whose classes are not the model's.
    """
    folder = Path(data).expanduser()
    if folder.is_dir():
        return _open_folder(folder, labels, classes, limit)
    if not _TFDS_NAME.fullmatch(data):
        raise EvaluationError(
            f"--data {data}: there is no such folder. Give a folder with one sub-folder per class, or the name "
            "of a data set in TensorFlow Datasets, such as imagenet_v2."
        )
    return _open_tfds(data, labels, classes, limit, split, data_dir)


def _open_folder(folder: Path, labels: Sequence[Label] | None, classes: int, limit: int | None) -> Data:
    by_class = images_by_class(folder)
    if not by_class:
        flat = any(is_image(path, folder) for path in folder.iterdir())
        raise EvaluationError(
            f"--data {folder} holds {'images but ' if flat else ''}no sub-folders. Expected one sub-folder per "
            "class, each with its images. (ImageNet's own validation archive is flat: sort it first, as valprep.sh of "
            "PyTorch's ImageNet example does.)"
        )
    indices, rule = match_classes(list(by_class), labels, classes)
    files: list[tuple[str, int]] = []
    listing = hashlib.sha256()
    for (name, images), index in zip(by_class.items(), indices, strict=True):
        if not images:
            raise EvaluationError(f"{folder / name} holds no image ({', '.join(SUFFIXES)}). Fill it or remove it.")
        for path in images:
            files.append((path.relative_to(folder).as_posix(), index))
            listing.update(json.dumps([files[-1][0], path.stat().st_size, index]).encode() + b"\n")
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]

    def examples(start: int) -> Iterator[Example]:
        for name, index in files[start:]:
            yield Example(name, index, functools.partial(_read, folder / name))

    return Data(str(folder), "folder", rule, len(by_class), len(files), listing.hexdigest(), examples)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path} was there, and cannot be read now: {error}. Put it back, and go on.") from error


def _open_tfds(
    data: str, labels: Sequence[Label] | None, classes: int, limit: int | None, split: str | None, data_dir: str | None
) -> Data:
    try:
        builder = open_tfds(data, data_dir)
    except ParameterError as error:
        raise EvaluationError(f"--data {error}") from error
    split = split or next((name for name in _SPLITS if name in builder.info.splits), None)
    if split not in builder.info.splits:
        raise EvaluationError(
            f"--split {split or 'is needed'}: {data} has the splits {', '.join(builder.info.splits)}."
        )
    names, info = builder.info.features["label"].names, builder.info.splits[split]
    indices, rule = match_classes(names, labels, classes)
    count = min(info.num_examples, limit or info.num_examples)
    listing = [builder.info.full_name, split, list(info.shard_lengths), names, indices]

    def examples(start: int) -> Iterator[Example]:
        for name, file, label in read_tfds(builder, f"{split}[{start}:{count}]") if start < count else ():
            if not 0 <= label < len(indices):
                raise EvaluationError(f"{data}, {name}: it has no label. Choose a --split that has labels.")
            yield Example(name, indices[label], lambda file=file: file)

    sha256 = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    full_name = f"{builder.info.full_name} {split}"
    return Data(full_name, "TensorFlow Datasets", rule, len(names), count, sha256, examples)


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
    rules = _indices(names, labels or (), classes)
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


def _indices(names: Sequence[str], labels: Sequence[Label], classes: int) -> dict[str, dict[str, int]]:
    """By rule, the index of each name that it fits."""
    ids = _unambiguous((label.wordnet_id, index) for index, label in enumerate(labels))
    spellings = ((name, index) for index, label in enumerate(labels) for name in (label.name, label.name.split(",")[0]))
    titles = _unambiguous((_plain(name), index) for name, index in spellings)
    numbers = {name: int(name) for name in names if name.isascii() and name.isdecimal() and int(name) < classes}
    by_title = {name: titles[_plain(name)] for name in names if _plain(name) in titles}
    return dict(zip(RULES, ({name: ids[name] for name in names if name in ids}, by_title, numbers), strict=True))


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
