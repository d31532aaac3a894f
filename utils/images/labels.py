"""Class names of ImageNet-1k and ImageNet-21k, or of a file of one's own, in the order of the classifiers' outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.errors import PackagingError, ParameterError
from utils.files import user_path

FILE = "assets.extra/labels.tsv"  # in a SavedModel folder
FOLDER = Path(__file__).resolve().parents[2] / "assets" / "labels"
_MAX_BYTES = 16 << 20


class Label(NamedTuple):
    """A class: its WordNet id, such as n02123045, and its name, synonyms separated by commas."""

    wordnet_id: str
    name: str


def read_labels(labels: str | Path, classes: int | None = None) -> list[Label]:
    """The labels of "imagenet1k" or "imagenet21k", or of a `labels.tsv`: a line each, WordNet id, tab, name.

    Raises PackagingError for a file that is missing or malformed, or that has another count than `classes`.
    """
    path = FOLDER / f"{labels}.tsv" if isinstance(labels, str) else labels
    try:
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise PackagingError(f"{path} cannot be read as class names: {error}") from error
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or not all(row):
            raise PackagingError(f"{path}, line {number}: expected a WordNet id, a tab and a name")
    if classes is not None and len(rows) != classes:
        raise PackagingError(f"{path} names {len(rows):,} classes; the model has {classes:,}")
    return [Label(*row) for row in rows]


def own_labels(path: str | Path) -> list[Label]:
    """The labels of a user's UTF-8 file: a line each, the name alone, or an id, a tab and the name.

    A name without an id gets `class_0`, `class_1` and so on. Raises ParameterError, naming file and line.
    """
    path = user_path(path)
    if path.exists() and not path.is_dir() and not (path.is_file() and path.stat().st_size <= _MAX_BYTES):
        raise ParameterError(  # a pipe is waited for, and a device never ends
            f"labels is {str(path)!r}, which is no plain file of at most {_MAX_BYTES:,} bytes; expected a text file, a "
            "class name per line"
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ParameterError(f"labels: {path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(
            f"labels is {str(path)!r}, which cannot be read: {reason}; expected a text file, a class name per line"
        ) from error
    labels = []
    for index, line in enumerate(lines):
        *ids, name = line.strip("\r").split("\t")
        name, id_ = " ".join(name.split()), " ".join(ids[0].split()) if ids else f"class_{index}"
        if len(ids) > 1 or not name or not id_:
            raise ParameterError(
                f"labels: {path}, line {index + 1}: expected a class name, or an id, a tab and a name, found {line!r}"
            )
        labels.append(Label(id_, name))
    return labels


def class_labels(path: str | Path, known: str | None, classes: int) -> list[Label] | None:
    """The labels of a classifier: those of the user's file at `path`, if there is one, else the set that is `known`.

    None if neither is there. Raises ParameterError as `own_labels`, and when the file has another number of lines.
    """
    if not path:
        return read_labels(known, classes) if known else None
    labels = own_labels(path)
    if len(labels) != classes:
        raise ParameterError(
            f"labels: {path} names {len(labels):,} classes, a line each, and the checkpoint has {classes:,}; "
            "give the names in the order of the model's outputs"
        )
    return labels


def write_labels(labels: Sequence[Label], model_dir: Path) -> Path:
    """Puts class names into a SavedModel folder, as `FILE`."""
    path = model_dir / FILE
    path.parent.mkdir(exist_ok=True)
    path.write_text(labels_text(labels), encoding="utf-8")
    return path


def labels_text(labels: Sequence[Label]) -> str:
    """A line each: WordNet id, tab, name."""
    return "".join(f"{label.wordnet_id}\t{label.name}\n" for label in labels)
