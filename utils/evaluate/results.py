"""Right answers: what is noted of each photograph, the counts, and the final result."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.artefact.assumed import assumptions
from utils.checkpoints.loading import Checkpoint
from utils.errors import EvaluationError
from utils.evaluate.data import Data
from utils.families import FAMILIES
from utils.files import write_text
from utils.predict.answers import Row
from utils.predict.model import Model
from utils.tables import aligned
from utils.text import printed

if TYPE_CHECKING:
    import pyarrow as pa

BEST = 5  # classes of an image
_VALIDATION_IMAGES = 50_000  # of ImageNet's validation set, which the reported accuracies are of


def compared(labels: Sequence[int], logits: np.ndarray, source: np.ndarray | None) -> Iterator[Row]:
    """A row of `schema` for each image, without its path.

    Args:
        labels: The right classes.
        logits: The model's, float32 [B, classes].
        source: The source framework's.

    Raises:
        EvaluationError: Logits are not finite, or of another number of classes.
    """
    rows: dict[str, Any] = {"label": labels, "classes": _best("the model", logits)}
    if source is not None:
        if source.shape != logits.shape:
            raise EvaluationError(
                f"The source framework gives logits {list(source.shape)}, the model {list(logits.shape)}: "
                "they are not the same model. Give the checkpoint that the model was made from."
            )
        error = np.abs(logits.astype(np.float64) - source).max(axis=1)
        scale = np.maximum(1.0, np.abs(source.astype(np.float64)).max(axis=1))
        rows |= {"source_classes": _best("the source framework", source), "max_abs": error, "relative": error / scale}
    for values in zip(*rows.values(), strict=True):
        yield dict(zip(rows, values, strict=True))


def schema() -> pa.Schema:
    """The columns of a part: the right class, the best `BEST` of each, how far logits are from the source's."""
    import pyarrow as pa

    ranked = pa.list_(pa.int32())
    kinds = {"path": pa.string(), "label": pa.int32(), "classes": ranked, "source_classes": ranked}
    kinds |= {"max_abs": pa.float64(), "relative": pa.float64(), "error": pa.string()}
    return pa.schema(list(kinds.items()))


@dataclass
class Tally:
    """Counts over images.

    top1, top5: of the model, images whose class is the first, or among the first five, of the logits.
    source_top1, source_top5: the same of the source framework. same_top1: images where both put the same class first;
    shared_top5: classes that are among the first five of both, over all images. max_abs: largest difference of a logit;
    relative: largest of an image, over max(1, max |logit of the source|). by_class: of each class its images, top1 and
    top5. corrupt: why there is no answer, by path.
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
    by_class: dict[int, list[int]] = field(default_factory=dict)
    corrupt: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Counts a row of `schema`, or an error."""
        if row.get("error"):
            self.corrupt[row["path"]] = row["error"]
            return
        label, best, expected = row["label"], list(row["classes"][:BEST]), row.get("source_classes")
        first, among = int(best[0] == label), int(label in best)
        self.images += 1
        self.top1 += first
        self.top5 += among
        found = self.by_class.setdefault(int(label), [0, 0, 0])
        found[:] = found[0] + 1, found[1] + first, found[2] + among
        if expected is not None:
            self.source_top1 += int(expected[0] == label)
            self.source_top5 += int(label in expected)
            self.same_top1 += int(best[0] == expected[0])
            self.shared_top5 += len(set(best) & set(expected))
            self.max_abs = max(self.max_abs, float(row["max_abs"]))
            self.relative = max(self.relative, float(row["relative"]))

    def figures(self, source: bool, classes: int) -> dict[str, dict[str, float]]:
        """Per cent, by who answered; for `agreement`, of what both gave. standard_error is that of top1, in points."""
        found = {"model": self._accuracy(self.top1, self.top5)}
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
    return np.argsort(-logits, axis=1, kind="stable")[:, :BEST]


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all. EvaluationError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error}. Choose another --output.") from error


def result_of(
    model: Model, source: Checkpoint | None, data: Data, tally: Tally, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What was evaluated, on what, and the figures, in per cent; the reported accuracy beside the measured one.

    Args:
        model: What was evaluated.
        source: The checkpoint whose answers were compared, if any.
        data: What it was evaluated on.
        tally: The counts.
        settings: How: "batch_size", "preprocessing", "versions", "limit".
    """
    opened, counts = model.opened, asdict(tally)
    variant, manifest = opened.variant, opened.manifest
    corrupt, by_class = counts.pop("corrupt"), counts.pop("by_class")
    result = {
        "evaluated": manifest["name"],
        "variant": variant.name,
        "weights": manifest["weights"],
        "model_sha256": model.sha256,
        "source": None,
        "data": {
            "name": data.name,
            "kind": data.kind,
            "classes": len(data.classes),
            "matched_by": data.rule,
            "listing_sha256": data.sha256,
        },
        "settings": settings,
        "images": tally.images,
        "corrupt": corrupt,
        "figures": tally.figures(source is not None, opened.units),
        "counts": counts,
        "by_class": [
            {"index": index, "name": printed(data.classes[index]), "images": images, "top1": top1, "top5": top5}
            for index, (images, top1, top5) in sorted(by_class.items())
        ],
        "reported": {"top1": variant.top1, "source": variant.top1_source},
    }
    if source:
        result["source"] = {
            "framework": FAMILIES[variant.family].framework,
            "weights": source.weights,
            "sha256": source.sha256,
            "converted_from_it": source.sha256 == manifest["source"]["sha256"],
        }
    unread = [data.photographs.notice] if data.photographs.notice else []
    result["notes"] = [*_notes(result), *unread, *assumptions(manifest)]
    return result


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What keeps the figures from being compared as they stand."""
    notes = []
    if result["weights"] == "synthetic":
        notes.append("SYNTHETIC WEIGHTS: random numbers in the official format, which recognise nothing.")
    if result["source"] and not result["source"]["converted_from_it"]:
        notes.append("The checkpoint is another file than the one that the model was converted from.")
    if result["settings"].get("answers"):
        notes.append("Counted from answers that were there: by the photographs' paths, whatever the files were then.")
    if result["settings"]["preprocessing"] == "graph":
        notes.append("The model prepared its images itself; Pillow is what the source projects evaluated with.")
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
    rows = [("", "top-1", "top-5", ""), ("model", *_accuracy(figures["model"]))]
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
