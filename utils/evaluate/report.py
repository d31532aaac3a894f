"""An evaluation's result: as the JSON that is kept, and as the table that is printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from utils.checkpoints.loading import Checkpoint
from utils.evaluate.data import Data
from utils.evaluate.model import Classifier
from utils.evaluate.progress import Progress
from utils.families import FAMILIES
from utils.tables import aligned

_VALIDATION_IMAGES = 50_000  # of ImageNet's validation set, which the reported accuracies are of


def result_of(
    classifier: Classifier, source: Checkpoint | None, data: Data, progress: Progress, limit: int | None
) -> dict[str, Any]:
    """What was evaluated, on what, and the figures, in per cent; the reported accuracy beside the measured one."""
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
    result["notes"] = _notes(result)
    return result


def _notes(result: Mapping[str, Any]) -> list[str]:
    """What keeps the figures from being compared as they stand."""
    notes = []
    if result["weights"] == "synthetic":
        notes.append("SYNTHETIC WEIGHTS: random numbers in the official format, which recognise nothing.")
    elif result["weights"] != "official":
        notes.append("The weights are not the official ones, which the reported top-1 is of.")
    if result["source"] and not result["source"]["converted_from_it"]:
        notes.append("The checkpoint is another file than the one that the SavedModel was converted from.")
    if result["settings"]["preprocessing"] == "graph":
        notes.append("The SavedModel prepared its images itself; Pillow is what the source projects evaluated with.")
    if result["reported"]["top1"] is not None and result["images"] != _VALIDATION_IMAGES:
        notes.append(f"The reported top-1 is of the {_VALIDATION_IMAGES:,} images of ImageNet's validation set.")
    if result["corrupt"]:
        names = list(result["corrupt"])
        listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
        notes.append(f"{len(names):,} corrupt files were left out: {listed}")
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
    title = f"{result['evaluated']} on {data['name']}: {result['images']:,} images of {data['classes']:,} classes"
    return "\n".join(["", title, "", aligned(rows, right=(1, 2)), "", *(f"!!! {note}" for note in result["notes"])])


def _accuracy(figures: Mapping[str, float]) -> tuple[str, str, str]:
    spread = f"standard error of top-1: {figures['standard_error']:.2f}"
    return _per_cent(figures["top1"]), _per_cent(figures["top5"]), spread


def _per_cent(value: float) -> str:
    return f"{value:.2f} %"
