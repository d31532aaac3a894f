"""Does it really learn? `python -m benchmarks.learning`: the notebook's ways to train, side by side.

Converts tiny feature extractors, runs `fine-tune.ipynb` with papermill on the digits, and leaves `learning` in
assets/tables: validation accuracy and seconds, as the notebooks' own manifests have them. The extractors have random
weights, or are pretrained here: their source models have learned the digits turned by 90 degrees, or made photographs.

`--models PATH ... --dataset FOLDER` does the same with feature extractors and photographs of your own, such as those of
official weights, and leaves the table in exports/tables.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gate.checkpoints import default, fitted

from benchmarks import command
from utils.conversion import convert
from utils.families.variants import Variant, get_variant
from utils.notebook import execution
from utils.tables import markdown

VARIANTS = ("convmixer_tiny", "mixer_tiny")
WEIGHTS = ("random", "turned digits", "made photographs")
AS_IT_WAS = {"train": "all", "epochs": 20, "learning_rate": 0.1, "batch_norm": "batch"}
BY_BATCH = "all, BatchNorm by batch"
# What is trained -> parameters of the notebook
RUNS = {
    "head": {"train": "head"},
    "all": {"train": "all"},
    "all, Keras 3": {"train": "all", "keras": "keras_3"},
    BY_BATCH: {"train": "all", "batch_norm": "batch"},
    "all at 0.1, 20 epochs, by batch": AS_IT_WAS,
}
EPOCHS, BATCH = {"turned digits": 20, "made photographs": 60}, 32
SHAPES, PHOTOGRAPHS = 8, 1200
PACKAGES = ("tensorflow", "tf_keras", "keras", "tensorflow-hub", "torch", "jax", "scikit-learn", "numpy")


def samples(variants: Sequence[str], kinds: Sequence[str], runs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per variant, kind of weights and run."""
    with tempfile.TemporaryDirectory() as scratch:
        for variant in variants:
            for weights in kinds:
                folder = Path(scratch, f"{variant}_{weights.replace(' ', '_')}")
                row = get_variant(variant)
                checkpoint = "synthetic" if weights == "random" else str(pretrained(row, weights, folder))
                settings = {"head": "fe", "checkpoint": checkpoint, "formats": "saved_model, keras"}
                tarball = convert(variant, **settings, output_dir=str(folder)).tarball
                for run in runs:
                    if run == BY_BATCH and row.family == "mixer":
                        continue  # it has no BatchNorm
                    yield {"extractor": variant, **_run(str(tarball), run, "digits"), "weights": weights}


def of_models(models: Sequence[str], dataset: str, runs: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per feature extractor and run."""
    for model in models:
        for run in runs:
            yield {"extractor": Path(model).name, **_run(model, run, dataset)}


def _run(model: str, run: str, dataset: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        parameters = {"model": model, "output_dir": folder, "dataset": dataset, "name": "learned"} | RUNS[run]
        with execution.executed(command.ROOT / "fine-tune.ipynb", parameters):
            (path,) = Path(folder).glob("*.json")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    training, seconds = manifest["training"], manifest["seconds"]
    return {
        "weights": manifest["weights"],
        "trained": run,
        "settings": training["settings"],
        "val_accuracy": training["val_accuracy"],
        "kept": training["results"]["kept"],
        "by_epoch": training.get("history", {}).get("val_accuracy", []),
        "seconds": {stage: seconds.get(stage, 0) for stage in ("features", "head", "train")},
    }


def pretrained(variant: Variant, task: str, folder: Path) -> Path:
    """A checkpoint of the source model, trained there on the task of that name; seed 0."""
    from utils.training.batches import training_batches
    from utils.training.datasets import load_dataset

    images = made_photographs() if task == "made photographs" else load_dataset("digits", 0)
    batches = training_batches(images, variant.preprocessing, BATCH, 0, range(EPOCHS[task]))
    turns = 1 if task == "turned digits" else 0
    turned = (
        (np.ascontiguousarray(np.rot90(pixels, turns, axes=(1, 2))), labels.argmax(axis=1).astype(np.int64))
        for pixels, labels in batches.as_numpy_iterator()
    )
    weights = fitted(variant, default(variant, 0), turned)
    folder.mkdir(parents=True)
    if variant.family == "mixer":
        np.savez(folder / "turned.npz", **weights)
        return folder / "turned.npz"
    import torch

    torch.save({key: torch.from_numpy(array) for key, array in weights.items()}, folder / "turned.pth")
    return folder / "turned.pth"


def made_photographs() -> Any:
    """Shapes in any colour, place and size on grounds of any colours, with noise: a class per shape; seed 0."""
    from PIL import Image, ImageDraw

    from utils.training.datasets import STANDARD, LabelledImages, Split

    rng, pixels, side = np.random.default_rng(0), [], 64
    labels = np.arange(PHOTOGRAPHS) % SHAPES
    for label in labels:
        ground = Image.fromarray(rng.integers(0, 256, (3, 3, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        x, y, radius = *rng.integers(20, side - 20, 2), int(rng.integers(10, 20))
        draw, colour = ImageDraw.Draw(ground), tuple(map(int, rng.integers(0, 256, 3)))
        if label < 5:  # polygons of 3 to 7 corners
            draw.regular_polygon((int(x), int(y), radius), int(label) + 3, int(rng.integers(360)), colour)
        elif label == 5:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour, width=4)
        else:  # stripes across or along
            for at in range(-radius, radius, 6):
                ends = (
                    [(x - radius, y + at), (x + radius, y + at)]
                    if label == 6
                    else [(x + at, y - radius), (x + at, y + radius)]
                )
                draw.line([tuple(map(int, end)) for end in ends], colour, 3)
        noisy = np.asarray(ground, np.float32) + rng.normal(0, 10, (side, side, 3))
        pixels.append(np.clip(noisy, 0, 255).astype(np.uint8))
    split = Split(pixels.__getitem__, labels)
    return LabelledImages("made", tuple(map(str, range(SHAPES))), split, split, STANDARD, "made")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per run."""
    headings = ["extractor", "its weights", "trained", "learning rate", "epochs", "accuracy", "kept", "best epoch's"]
    headings += ["features, s", "head, s", "training, s"]
    lines = []
    for row in rows:
        settings, epochs = row["settings"], row["by_epoch"]
        plan = [f"{settings['learning_rate']:g}", str(settings["epochs"])] if epochs else ["", ""]
        best = f"{max(epochs):.1%}" if epochs else ""
        figures = [*plan, f"{row['val_accuracy']:.1%}", row["kept"], best]
        seconds = [f"{row['seconds'][stage]:.0f}" for stage in ("features", "head", "train")]
        lines.append([row["extractor"], row["weights"], row["trained"], *figures, *seconds])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the notebooks, write the table, print it."""
    parser = command.parser("learning", __doc__)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help=f"else {', '.join(VARIANTS)}")
    parser.add_argument("--weights", nargs="+", default=WEIGHTS, choices=WEIGHTS, help="else all")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), help="else all")
    parser.add_argument("--models", nargs="+", help="feature extractors, in place of those that are made here")
    parser.add_argument("--dataset", default="digits", help="for --models, as the notebook takes it (digits)")
    options = parser.parse_args(arguments)
    notes = command.notes("learning", arguments, PACKAGES) | {
        "seconds": "of computing features, fitting the head, and training everything; all from the same head",
    }
    if options.models:
        options.output_dir = options.output_dir or Path("exports", "tables")
        rows = list(command.shown(of_models(options.models, options.dataset, options.runs)))
        title = f"Fine-tuning on {Path(options.dataset).name}"
    else:
        notes["weights"] = (
            f"random: synthetic; turned digits: the source model after {EPOCHS['turned digits']} epochs of Adam "
            f"on the digits turned by 90 degrees; made photographs: after {EPOCHS['made photographs']} epochs on "
            f"{PHOTOGRAPHS:,} drawn shapes. Nobody's official weights"
        )
        rows = list(command.shown(samples(options.variants, options.weights, options.runs)))
        title = "Fine-tuning on the digits"
    command.leave(options, "learning", title, notes, table, rows)


if __name__ == "__main__":
    main()
