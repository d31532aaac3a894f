"""Does it really learn? `python -m benchmarks.learning`: the notebook on the digits, by its own defaults.

Converts tiny feature extractors, runs `fine-tune.ipynb` with papermill, and leaves `learning` in assets/tables:
validation accuracy and seconds, as the notebooks' own manifests tell them. The extractors have random weights, or are
pretrained: their source models have learned the digits turned by 90 degrees, here.
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
WEIGHTS = ("random", "pretrained")
# Keras, whether the `.keras` file is trained, whether the backbone is
RUNS = (("tf_keras", False, False), ("tf_keras", False, True), ("keras_3", True, True), ("keras_3", False, True))
PRETRAINING_EPOCHS, BATCH = 20, 32
PACKAGES = ("tensorflow", "tf_keras", "keras", "tensorflow-hub", "torch", "jax", "scikit-learn", "numpy")


def samples(variants: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per variant, kind of weights and run."""
    with tempfile.TemporaryDirectory() as scratch:
        for variant in variants:
            for weights in WEIGHTS:
                folder = Path(scratch, f"{variant}_{weights}")
                checkpoint = "synthetic" if weights == "random" else str(pretrained(get_variant(variant), folder))
                settings = {"head": "fe", "checkpoint": checkpoint, "formats": "saved_model, keras"}
                tarball = convert(variant, **settings, output_dir=str(folder)).tarball
                for keras, native, whole in RUNS:
                    if keras == "keras_3" and not native and get_variant(variant).family == "mixer":
                        continue  # without BatchNorm there is no difference
                    yield {"variant": variant, "weights": weights, **_run(tarball, keras, native, whole)}


def _run(tarball: Path, keras: str, native: bool, whole: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder, tarball.name)
        alone.hardlink_to(tarball)
        model = tarball.with_name(tarball.name.replace(".tar.gz", ".keras")) if native else alone
        parameters = {"model": str(model), "output_dir": folder, "dataset": "digits", "keras": keras}
        with execution.executed(command.ROOT / "fine-tune.ipynb", parameters | {"train_backbone": whole}):
            (path,) = Path(folder).glob("*_digits*.json")
        manifest = json.loads(path.read_text(encoding="utf-8"))
    return {
        "keras": "Keras 3, `.keras`" if native else "Keras 3, `TFSMLayer`" if keras == "keras_3" else keras,
        "trained": "everything" if whole else "head only",
        "settings": {key: manifest["training"]["settings"][key] for key in ("epochs", "optimizer", "learning_rate")},
        "val_accuracy": manifest["training"]["history"]["val_accuracy"],
        "seconds": manifest["seconds"]["train"],
    }


def pretrained(variant: Variant, folder: Path) -> Path:
    """A checkpoint of the source model, trained there on the digits turned by 90 degrees; seed 0."""
    from utils.training.batches import training_batches
    from utils.training.datasets import load_dataset

    images = load_dataset("digits", BATCH, 0)
    batches = training_batches(images, variant.preprocessing, BATCH, 0, range(PRETRAINING_EPOCHS))
    turned = (
        (np.ascontiguousarray(np.rot90(pixels, axes=(1, 2))), labels.argmax(axis=1).astype(np.int64))
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


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per run."""
    headings = ["extractor", "its weights", "Keras", "trained", "accuracy after 5 epochs", "at best", "training, s"]
    lines = []
    for row in rows:
        accuracy = row["val_accuracy"]
        figures = [f"{accuracy[4]:.1%}", f"{max(accuracy):.1%}", f"{row['seconds']:.0f}"]
        lines.append([row["variant"], row["weights"], row["keras"], row["trained"], *figures])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the notebooks, write the table, print it."""
    parser = command.parser("learning", __doc__)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help=f"else {', '.join(VARIANTS)}")
    options = parser.parse_args(arguments)
    notes = command.notes("learning", arguments, PACKAGES) | {
        "weights": "random: synthetic, seed 0; pretrained: the source model after "
        f"{PRETRAINING_EPOCHS} epochs of Adam on the digits turned by 90 degrees. Nobody's official weights",
    }
    rows = list(command.shown(samples(options.variants)))
    notes["settings"] = "the notebook's own: " + ", ".join(f"{k} {v}" for k, v in rows[0]["settings"].items())
    command.leave(options, "learning", "Fine-tuning on the digits", notes, table, rows)


if __name__ == "__main__":
    main()
