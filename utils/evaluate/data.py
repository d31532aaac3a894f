"""Labelled photographs, and which of a model's classes their labels mean.

A folder with a sub-folder per class, or a data set of TensorFlow Datasets: both give the files' own bytes, in one fixed
order, from any position on, so that a stopped evaluation can go on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import EvaluationError, ParameterError
from utils.images.folders import ByClass, Labelled, read_folder
from utils.images.labels import Label
from utils.images.photographs import SUFFIXES
from utils.images.tfds import NAME, open_tfds, read_tfds
from utils.predict.photographs import Photograph, Photographs
from utils.text import printed

_SPLITS = ("validation", "test")  # ImageNet's and ImageNetV2's


@dataclass(frozen=True)
class Example(Photograph):
    """path: within its folder, or data set. label: the index of its class in the model's order."""

    label: int


@dataclass(frozen=True)
class Data:
    """What is evaluated on.

    rule: how the classes were matched. classes: their names in the data, by index. sha256: of the listing of the files,
    not of what is in them. photographs: every `Example`, from any position on; their notice says what was not read.
    """

    name: str
    kind: str
    rule: str
    classes: Mapping[int, str]
    sha256: str
    photographs: Photographs


def open_data(
    data: str,
    labels: Sequence[Label] | None,
    classes: int,
    limit: int | None = None,
    split: str | None = None,
    data_dir: str | None = None,
) -> Data:
    """Opens a folder, or what TensorFlow Datasets has (or downloads, or prepares) under that name.

    Args:
        data: the folder or the name.
        labels: the model's classes, where it names them.
        classes: how many it has.
        limit: use that many files at most: of a folder, which is sorted by class, spread evenly; of a data set, the
            first.
        split: of a data set, or of a folder with "train" and the like; by default "validation", else "test".
        data_dir: where a data set's files are, by default `~/tensorflow_datasets`.

    Raises:
        EvaluationError: the data are not there, or their classes are not the model's.
    """
    folder = Path(data).expanduser()
    if folder.is_dir():
        return _open_folder(folder, labels, classes, limit, split)
    if not NAME.fullmatch(data):
        raise EvaluationError(
            f"--data {data}: there is no such folder. Give a folder with one sub-folder per class, or the name "
            "of a data set in TensorFlow Datasets, such as imagenet_v2."
        )
    return _open_tfds(data, labels, classes, limit, split, data_dir)


def _open_folder(
    folder: Path, labels: Sequence[Label] | None, classes: int, limit: int | None, split: str | None
) -> Data:
    try:
        labelled = read_folder(folder)
    except ParameterError as error:
        raise EvaluationError(f"--data {error}") from error
    part, by_class = _part(folder, labelled, split)
    if not by_class:
        raise EvaluationError(
            f"--data {folder} holds no sub-folders. Expected one sub-folder per class, each with its images. "
            f"(ImageNet's own validation archive is flat: sort it first, as valprep.sh of PyTorch's ImageNet example "
            f"does.) {labelled.notice}"
        )
    indices, rule = match_classes(list(by_class), labels, classes)
    files: list[tuple[str, int]] = []
    listing, state = hashlib.sha256(), hashlib.sha256()
    for (name, images), index in zip(by_class.items(), indices, strict=True):
        if not images:
            raise EvaluationError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}). Fill it or remove it. {labelled.notice}"
            )
        for path in images:
            files.append((path.relative_to(folder).as_posix(), index))
            found = path.stat()
            listing.update(json.dumps([files[-1][0], found.st_size, index]).encode() + b"\n")
            state.update(json.dumps([found.st_ino, found.st_mtime_ns]).encode() + b"\n")
    if limit is not None and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]

    def since(start: int, stop: int) -> Iterator[Example]:
        for name, index in files[start:stop]:
            yield Example(printed(name), functools.partial(_read, folder / name), index)

    state.update(listing.digest())
    return Data(
        name=printed(str(folder / part)),
        kind="folder",
        rule=rule,
        classes=dict(zip(indices, by_class, strict=True)),
        sha256=listing.hexdigest(),
        photographs=Photographs(len(files), state.hexdigest(), since, labelled.notice),
    )


def _part(folder: Path, labelled: Labelled, split: str | None) -> tuple[str, ByClass]:
    """The part to evaluate on, of a folder that is split: `split`, by default as of a data set."""
    parts = labelled.parts
    part = split or next((name for name in ("", *_SPLITS, *parts) if name in parts), "")
    if part not in parts:
        raise EvaluationError(f"--split {split}: {folder} has {', '.join(parts) or 'no parts'}.")
    return part, parts[part]


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

    def since(start: int, stop: int) -> Iterator[Example]:
        for name, file, label in read_tfds(builder, f"{split}[{start}:{min(stop, count)}]") if start < count else ():
            if not 0 <= label < len(indices):
                raise EvaluationError(f"{data}, {name}: it has no label. Choose a --split that has labels.")
            yield Example(name, lambda file=file: file, indices[label])

    sha256 = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return Data(
        name=f"{builder.info.full_name} {split}",
        kind="TensorFlow Datasets",
        rule=rule,
        classes=dict(zip(indices, names, strict=True)),
        sha256=sha256,
        photographs=Photographs(count, sha256, since),
    )


_IMAGENET_1K = 1000  # classes; as many folders, numbered from 0, are ImageNet-1k's whatever the model is
_LISTED = 10  # names in an error message; the count says how many there are
RULES = ("WordNet id", "class name", "class index")


def match_classes(names: Sequence[str], labels: Sequence[Label] | None, classes: int) -> tuple[list[int], str]:
    """The index of the model's class for each of `names`, and the rule that found it, one of `RULES`.

    The first rule that fits every name is taken: the WordNet id of the model's labels (n01440764); the class's name
    there, letter by letter, or, if that does not fit all, whole or up to its first comma, blanks or underscores,
    capitals or not; the index from 0 to `classes` - 1, with or without leading zeros. A name that two classes share, as
    ImageNet's two cranes do, fits neither.

    `labels` is None for a model without any: then only the index is left. EvaluationError names what fits no rule.
    """
    rules = _indices(names, labels or (), classes)
    best = max(RULES, key=lambda rule: len(rules[rule]))  # of equals the first
    found = rules[best]
    if best == "class index" and classes != _IMAGENET_1K and sorted(found.values()) == list(range(_IMAGENET_1K)):
        raise EvaluationError(
            f"The data's classes are 0 to {_IMAGENET_1K - 1}, ImageNet-1k's numbers, and this model has {classes:,} "
            "classes of its own order: it would be scored for the wrong ones. Name the folders by WordNet id."
        )
    if unknown := [name for name in names if name not in found]:
        listed = ", ".join(map(repr, unknown[:_LISTED])) + (", …" if len(unknown) > _LISTED else "")
        others = f"WordNet id (such as {labels[0].wordnet_id}), all by name, or all by " if labels else ""
        raise EvaluationError(
            f"{len(unknown)} of the data's {len(names)} classes are not the model's, by {best}: {listed}. Name all of "
            f"them by {others}index, from 0 to {classes - 1}. A name that two classes share will not do."
        )
    return [found[name] for name in names], best


def _indices(names: Sequence[str], labels: Sequence[Label], classes: int) -> dict[str, dict[str, int]]:
    """By rule, the index of each name that it fits."""
    ids = _unambiguous((label.wordnet_id, index) for index, label in enumerate(labels))
    exact = _unambiguous((_exact(label.name), index) for index, label in enumerate(labels))
    by_title = {name: exact[_exact(name)] for name in names if _exact(name) in exact}
    if len(by_title) < len(names):
        spellings = ((name, i) for i, label in enumerate(labels) for name in (label.name, label.name.split(",")[0]))
        titles = _unambiguous((_plain(name), index) for name, index in spellings)
        by_title = {name: titles[_plain(name)] for name in names if _plain(name) in titles}
    numbers = {name: int(name) for name in names if name.isascii() and name.isdecimal() and int(name) < classes}
    return dict(zip(RULES, ({name: ids[name] for name in names if name in ids}, by_title, numbers), strict=True))


def _unambiguous(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    meanings: dict[str, set[int]] = {}
    for key, index in pairs:
        meanings.setdefault(key, set()).add(index)
    return {key: indices.pop() for key, indices in meanings.items() if len(indices) == 1}


def _exact(name: str) -> str:
    """The same letters in the same form, however a file system or an archive spells them."""
    return unicodedata.normalize("NFC", " ".join(name.split()))


def _plain(name: str) -> str:
    return " ".join(_exact(name).replace("_", " ").casefold().split())
