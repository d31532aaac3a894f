"""Right answers, counted exactly, and what a stopped evaluation leaves of the counts, so that it goes on from there."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
        best = _best("the SavedModel", logits)
        self.images += len(labels)
        self.top1 += int((best[:, 0] == labels).sum())
        self.top5 += int((best == labels[:, None]).sum())
        if source is None:
            return
        if source.shape != logits.shape:
            raise EvaluationError(
                f"The source framework gives logits {list(source.shape)}, the SavedModel {list(logits.shape)}: "
                "they are not the same model. Give the checkpoint that the SavedModel was made from."
            )
        expected = _best("the source framework", source)
        self.source_top1 += int((expected[:, 0] == labels).sum())
        self.source_top5 += int((expected == labels[:, None]).sum())
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


def _best(who: str, logits: np.ndarray) -> np.ndarray:
    """The first five classes of each image, int64 [B, 5] or as many as there are; of equals, the lower index first."""
    if not np.isfinite(logits).all():
        raise EvaluationError(f"{who} gives logits that are NaN or infinite: its accuracy would mean nothing.")
    return np.argsort(-logits, axis=1, kind="stable")[:, :5]


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
        advice = f"Remove {path.name} to start again, or choose another --output."
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            found, tally = saved.pop("binding"), Tally(**saved.pop("tally"))
            progress = cls(path, binding, tally=tally, **saved)
        except FileNotFoundError:
            return cls(path, binding)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise EvaluationError(f"{path} cannot be read as progress: {error}. {advice}") from error
        if names := [name for name in {**binding, **found} if found.get(name) != binding.get(name)]:
            differences = "\n".join(f"  {name}: then {found.get(name)}, now {binding.get(name)}" for name in names)
            raise EvaluationError(f"{path} is of an evaluation with other settings:\n{differences}\n{advice}")
        return progress

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        state = asdict(self)
        del state["path"]
        write_json(self.path, state)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all. EvaluationError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error}. Choose another --output.") from error
