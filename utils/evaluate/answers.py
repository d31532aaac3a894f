"""Answers that `utils.predict` wrote, held against labelled photographs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import EvaluationError
from utils.evaluate.data import Data
from utils.evaluate.results import BEST, Tally
from utils.predict.answers import read_answers
from utils.predict.model import Model
from utils.predict.run import NOT_FINITE
from utils.text import printed


def count_answers(path: Path, model: Model, data: Data) -> tuple[Tally, dict[str, Any]]:
    """The counts of a `.parquet` file's answers, and how they were made: "batch_size" and "versions".

    Args:
        path: The file.
        model: Whose answers they must be.
        data: The photographs, each of which must have one row.

    Raises:
        ParameterError: The file has no answers.
        EvaluationError: They are not this model's, not these photographs', too few classes, or not finite.
    """
    binding, rows = read_answers(path)
    if binding.get("model") != model.sha256:
        raise EvaluationError(
            f"{path} has the answers of another model than {model.opened.name}. Predict with this one."
        )
    wanted = min(BEST, model.opened.units)
    labels = {example.path: example.label for example in data.photographs.since(0, data.photographs.count)}
    left, tally = dict(labels), Tally()
    for row in rows:
        name = _name(row["path"] or "", labels)
        if name not in left:
            where = "is there twice" if name in labels else f"is not in {data.name}"
            raise EvaluationError(f"{path}: {printed(str(row['path']))} {where}. Predict for the same photographs.")
        if row["error"] == NOT_FINITE:
            raise EvaluationError(f"{path}: {printed(row['path'])}: {NOT_FINITE}. Its accuracy would mean nothing.")
        if not row["error"] and len({each for each in row["classes"] or [] if each is not None}) < wanted:
            raise EvaluationError(f"{path}: {printed(row['path'])} has too few classes: predict with --top-k {wanted}.")
        tally.add({"path": name, "label": left.pop(name), "classes": row["classes"], "error": row["error"]})
    if left:
        raise EvaluationError(f"{path} has no answer for {len(left):,} of the photographs, such as {next(iter(left))}.")
    return tally, {"answers": path.name} | {key: binding.get(key) for key in ("batch_size", "versions")}


def _name(path: str, labels: Mapping[str, int]) -> str | None:
    """The photograph's name in the data: the end of the path that it had for `utils.predict`."""
    parts = printed(path).split("/")
    return next((name for i in range(len(parts)) if (name := "/".join(parts[i:])) in labels), None)
