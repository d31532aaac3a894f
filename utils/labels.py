"""Class names of ImageNet-1k and ImageNet-21k, in the order of the classifiers' outputs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from utils.errors import PackagingError

FOLDER = Path(__file__).resolve().parent.parent / "assets" / "labels"


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


def write_labels(labels: str, classes: int, model_dir: Path) -> Path:
    """Put the class names into a SavedModel folder as `assets.extra/labels.tsv`; raises as `read_labels`."""
    rows = read_labels(labels, classes)
    path = model_dir / "assets.extra" / "labels.tsv"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{label.wordnet_id}\t{label.name}\n" for label in rows), encoding="utf-8")
    return path
