"""Right answers: counted exactly, kept on disk so that a stopped evaluation can go on, and as the final result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.artefact.assumed import assumptions
from utils.checkpoints.loading import Checkpoint
from utils.errors import EvaluationError
from utils.evaluate.data import Data
from utils.evaluate.model import Classifier
from utils.families import FAMILIES
from utils.files import write_text
from utils.tables import aligned
from utils.text import printed


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


_VALIDATION_IMAGES = 50_000  # of ImageNet's validation set, which the reported accuracies are of


def result_of(
    classifier: Classifier, source: Checkpoint | None, data: Data, progress: Progress, limit: int | None
) -> dict[str, Any]:
    """What was evaluated, on what, and the figures, in per cent; the reported accuracy beside the measured one.

    Args:
        classifier: the model.
        source: the checkpoint whose answers were compared, if any.
        data: what it was evaluated on.
        progress: the counts.
        limit: as of `open_data`.
    """
    variant, manifest = classifier.opened.variant, classifier.opened.manifest
    result = {
        "evaluated": manifest["name"],
        "variant": variant.name,
        "weights": manifest["weights"],
        "model_sha256": classifier.sha256,
        "source": None,
        "data": {
            "name": data.name,
            "kind": data.kind,
            "classes": data.classes,
            "matched_by": data.rule,
            "listing_sha256": data.sha256,
        },
        "settings": {key: progress.binding[key] for key in ("batch_size", "preprocessing", "versions")}
        | {"limit": limit},
        "images": progress.tally.images,
        "corrupt": progress.corrupt,
        "figures": progress.tally.figures(source is not None, classifier.opened.units),
        "counts": asdict(progress.tally),
        "reported": {"top1": variant.top1, "source": variant.top1_source},
        "seconds": round(progress.seconds, 1),
    }
    if source:
        result["source"] = {
            "framework": FAMILIES[variant.family].framework,
            "weights": source.weights,
            "sha256": source.sha256,
            "converted_from_it": source.sha256 == manifest["source"]["sha256"],
        }
    unread = [data.notice] if data.notice else []
    result["notes"] = [*_notes(result), *unread, *assumptions(manifest)]
    return result


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What keeps the figures from being compared as they stand."""
    notes = []
    if result["weights"] == "synthetic":
        notes.append("SYNTHETIC WEIGHTS: random numbers in the official format, which recognise nothing.")
    if result["source"] and not result["source"]["converted_from_it"]:
        notes.append("The checkpoint is another file than the one that the SavedModel was converted from.")
    if result["settings"]["preprocessing"] == "graph":
        notes.append("The SavedModel prepared its images itself; Pillow is what the source projects evaluated with.")
    if result["reported"]["top1"] is not None and result["images"] != _VALIDATION_IMAGES:
        notes.append(f"The reported top-1 is of the {_VALIDATION_IMAGES:,} images of ImageNet's validation set.")
    if result["corrupt"]:
        reasons = list(result["corrupt"].values())
        listed = "".join(f"\n  {reason}" for reason in [*reasons[:10], *(["…"] if len(reasons) > 10 else [])])
        notes.append(f"{len(reasons):,} corrupt files were left out:{listed}")
    return notes


def table(result: Mapping[str, Any]) -> str:
    """The figures as text for a terminal, with the notes below."""
    figures, reported = result["figures"], result["reported"]
    rows = [("", "top-1", "top-5", ""), ("SavedModel", *_accuracy(figures["savedmodel"]))]
    if "source" in figures:
        rows.append((result["source"]["framework"], *_accuracy(figures["source"])))
        agreement = figures["agreement"]
        error = f"logits differ by {agreement['max_abs']:.1e} at most, relative {agreement['relative']:.1e}"
        rows.append(("agreement", _per_cent(agreement["top1"]), _per_cent(agreement["top5"]), error))
    top1 = "none" if reported["top1"] is None else _per_cent(reported["top1"])
    rows.append(("reported", top1, "", reported["source"]))
    data = result["data"]
    title = (
        f"{result['evaluated']} on {printed(data['name'])}: {result['images']:,} images of {data['classes']:,} classes"
    )
    return "\n".join(["", title, "", aligned(rows, right=(1, 2)), "", *(f"!!! {note}" for note in result["notes"])])


def _accuracy(figures: Mapping[str, float]) -> tuple[str, str, str]:
    spread = f"standard error of top-1: {figures['standard_error']:.2f}"
    return _per_cent(figures["top1"]), _per_cent(figures["top5"]), spread


def _per_cent(value: float) -> str:
    return f"{value:.2f} %"
