"""Right answers, counted exactly, and what a stopped evaluation leaves of the counts, so that it goes on from there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import EvaluationError
from utils.files import write_text


@dataclass
class Tally:
    """Counts over the images so far. Whole numbers, and maxima: no sum of fractions depends on where a run stopped.

    top1, top5: of the SavedModel, images whose class is the first, or among the first five, of the logits.
    source_top1, source_top5: the same of the source framework. same_top1: images where both put the same class first;
    shared_top5: classes that are among the first five of both, over all images. max_abs: largest difference of a logit;
    relative: largest of an image, over max(1, max |logit of the source|).
    """

    images: int = 0
    top1: int = 0
    top5: int = 0
    source_top1: int = 0
    source_top5: int = 0
    same_top1: int = 0
    shared_top5: int = 0
    max_abs: float = 0.0
    relative: float = 0.0

    def add(self, labels: np.ndarray, logits: np.ndarray, source: np.ndarray | None = None) -> None:
        """Counts a batch: `labels` int64 [B], logits float32 [B, classes]. EvaluationError if not all are finite."""
        _require_finite("the SavedModel", logits)
        best = _best(logits)
        self.images += len(labels)
        self.top1 += int((best[:, 0] == labels).sum())
        self.top5 += int((best == labels[:, None]).any(axis=1).sum())
        if source is None:
            return
        _require_finite("the source framework", source)
        if source.shape != logits.shape:
            raise EvaluationError(
                f"The source framework gives logits {list(source.shape)}, the SavedModel {list(logits.shape)}: "
                "they are not the same model. Give the checkpoint that the SavedModel was made from."
            )
        expected = _best(source)
        self.source_top1 += int((expected[:, 0] == labels).sum())
        self.source_top5 += int((expected == labels[:, None]).any(axis=1).sum())
        self.same_top1 += int((best[:, 0] == expected[:, 0]).sum())
        self.shared_top5 += int((best[:, :, None] == expected[:, None, :]).sum())
        error = np.abs(logits.astype(np.float64) - source).max(axis=1)
        self.max_abs = max(self.max_abs, float(error.max()))
        scale = np.maximum(1.0, np.abs(source.astype(np.float64)).max(axis=1))
        self.relative = max(self.relative, float((error / scale).max()))

    def figures(self, source: bool, classes: int) -> dict[str, dict[str, float]]:
        """Per cent, by who answered; for `agreement`, of what both gave. standard_error is that of top1, in points."""
        found = {"savedmodel": self._accuracy(self.top1, self.top5)}
        if source:
            found["source"] = self._accuracy(self.source_top1, self.source_top5)
            found["agreement"] = {
                "top1": 100 * self.same_top1 / self.images,
                "top5": 100 * self.shared_top5 / (min(5, classes) * self.images),
                "max_abs": self.max_abs,
                "relative": self.relative,
            }
        return found

    def _accuracy(self, top1: int, top5: int) -> dict[str, float]:
        share = top1 / self.images
        error = 100 * math.sqrt(share * (1 - share) / self.images)
        return {"top1": 100 * share, "top5": 100 * top5 / self.images, "standard_error": error}

    def to_json(self) -> dict[str, Any]:
        """The counts by name; JSON keeps a float's every digit."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> Tally:
        """What `to_json` gave; ValueError for anything else."""
        kinds = {field.name: type(field.default) for field in fields(cls)}
        if not isinstance(data, dict) or {name: type(value) for name, value in data.items()} != kinds:
            raise ValueError("counts")
        tally = cls(**data)
        counts = [tally.top1, tally.top5, tally.source_top1, tally.source_top5, tally.same_top1]
        if not (all(0 <= count <= tally.images for count in counts) and 0 <= tally.shared_top5 <= 5 * tally.images):
            raise ValueError("counts")
        return tally


def _best(logits: np.ndarray) -> np.ndarray:
    """The first five classes of each image, int64 [B, 5] or as many as there are; of equals, the lower index first."""
    return np.argsort(-logits, axis=1, kind="stable")[:, :5]


def _require_finite(who: str, logits: np.ndarray) -> None:
    if not np.isfinite(logits).all():
        raise EvaluationError(f"{who} gives logits that are NaN or infinite: its accuracy would mean nothing.")


_FORMAT = 1  # raise it when counts of an older version are not to be gone on from


@dataclass
class Progress:
    """How far an evaluation is: `done` files, with what they came to; saved after every batch.

    binding: whatever the figures depend on, by name: model, data, settings. Progress of another binding is refused.
    """

    path: Path
    binding: Mapping[str, Any]
    done: int = 0
    tally: Tally = field(default_factory=Tally)
    corrupt: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def load(cls, path: Path, binding: Mapping[str, Any]) -> Progress:
        """Goes on from the file, or starts where there is none.

        EvaluationError for a file that belongs to another evaluation, saying what differs, or is damaged.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path, binding)
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{path} cannot be read as progress: {error}. {_advice(path)}") from error
        found = saved.get("binding") if isinstance(saved, dict) else None
        if not isinstance(found, dict) or saved.get("format") != _FORMAT:
            raise EvaluationError(f"{path} is no progress file of this version. {_advice(path)}")
        names = [name for name in {**binding, **found} if found.get(name) != binding.get(name)]
        if names:
            differences = "\n".join(f"  {name}: then {found.get(name)}, now {binding.get(name)}" for name in names)
            raise EvaluationError(f"{path} is of an evaluation with other settings:\n{differences}\n{_advice(path)}")
        try:
            progress = cls(path, binding, tally=Tally.from_json(saved["tally"]))
            progress.done, progress.corrupt, progress.seconds = (saved[key] for key in ("done", "corrupt", "seconds"))
            if not isinstance(progress.corrupt, dict) or not isinstance(progress.seconds, float | int):
                raise ValueError("corrupt, seconds")
            if progress.done != progress.tally.images + len(progress.corrupt):
                raise ValueError("done")
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{path} is damaged ({error}). {_advice(path)}") from error
        return progress

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        state = {
            "format": _FORMAT,
            "binding": dict(self.binding),
            "done": self.done,
            "tally": self.tally.to_json(),
            "corrupt": self.corrupt,
            "seconds": round(self.seconds, 3),
        }
        write_json(self.path, state)


def _advice(path: Path) -> str:
    return f"Remove {path.name} to start again, or choose another --output."


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all. EvaluationError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error}. Choose another --output.") from error
