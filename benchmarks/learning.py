"""Does it really learn? `python -m benchmarks.learning`: the notebook on the digits, head alone and whole backbone.

Converts the tiny feature extractors (random weights), runs `fine-tune.ipynb` with papermill, and leaves `learning` in
assets/tables: validation accuracy and seconds, as the notebooks' own manifests tell them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import command
from utils.convert import ROOT, convert
from utils.notebook import execution
from utils.tables import markdown

VARIANTS = ("convmixer_tiny", "mixer_tiny")
RUNS = (("tf_keras", False), ("tf_keras", True), ("keras_3", True))  # Keras, whether the backbone is trained
SETTINGS = {"dataset": "digits", "epochs": 10, "batch_size": 32, "learning_rate": 0.1, "seed": 0}
PACKAGES = ("tensorflow", "tf_keras", "keras", "tensorflow-hub", "scikit-learn", "numpy")


def samples(variants: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row per variant and run."""
    with tempfile.TemporaryDirectory() as scratch:
        for variant in variants:
            tarball = convert(variant, "fe", "synthetic", Path(scratch, "extractors"))[1]
            for keras, train_backbone in RUNS:
                folder = Path(scratch, f"{variant}_{keras}_{train_backbone}")
                chosen = {"model": str(tarball), "output_dir": str(folder), "keras": keras}
                parameters = {**SETTINGS, **chosen, "train_backbone": train_backbone}
                with execution.executed(ROOT / "fine-tune.ipynb", parameters):
                    (path,) = folder.glob("*.json")
                manifest = json.loads(path.read_text(encoding="utf-8"))
                yield {
                    "variant": variant,
                    "keras": keras,
                    "trained": "everything" if train_backbone else "head only",
                    "val_accuracy": max(manifest["training"]["history"]["val_accuracy"]),
                    "seconds": manifest["seconds"]["train"],
                    "total_seconds": sum(manifest["seconds"].values()),
                }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row per run."""
    headings = ["extractor", "Keras", "trained", "validation accuracy", "training, s", "whole notebook's stages, s"]
    lines = []
    for row in rows:
        figures = [f"{row['val_accuracy']:.1%}", f"{row['seconds']:.0f}", f"{row['total_seconds']:.0f}"]
        lines.append([row["variant"], row["keras"], row["trained"], *figures])
    return markdown(headings, lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the notebooks, write the table, print it."""
    parser = command.parser("learning", __doc__)
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help=f"else {', '.join(VARIANTS)}")
    options = parser.parse_args(arguments)
    notes = command.notes("learning", arguments, PACKAGES) | {
        "weights": "of the extractors: synthetic, seed 0, so all that is known of digits was learned here",
        "settings": ", ".join(f"{name} {value}" for name, value in SETTINGS.items()),
    }
    rows = command.shown(samples(options.variants))
    command.leave(options, "learning", "Fine-tuning on the digits", notes, table, rows)


if __name__ == "__main__":
    main()
