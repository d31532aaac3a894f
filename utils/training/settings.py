"""The parameters of the fine-tuning notebook, checked all together before anything is loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import ParameterError
from utils.notebook.parameters import one_of, whole_number

DATASETS = ("tf_flowers", "digits")
OPTIMIZERS = ("sgd", "adamw")
CORRUPT = ("refuse", "skip")
KERAS = ("auto", "tf_keras", "keras_3")
PRECISIONS = ("auto", "float32")


@dataclass(frozen=True)
class TrainingSettings:
    """What a run is asked to do; two runs of equal settings on equal data do the same steps.

    model: a SavedModel folder, a tarball or a TF Hub handle. dataset: one of DATASETS, or a folder with one sub-folder
    per class. image_size: pixels; 0 for the size that the model was made for. clip_norm: of all gradients together;
    0 for no clipping. corrupt_images: what to do about files that cannot be decoded.
    """

    model: str
    dataset: str
    epochs: int
    batch_size: int
    learning_rate: float
    train_backbone: bool
    image_size: int
    output_dir: str
    seed: int
    optimizer: str = "sgd"
    label_smoothing: float = 0.0
    clip_norm: float = 1.0
    corrupt_images: str = "refuse"
    keras: str = "auto"
    precision: str = "auto"

    def digest(self, **facts: Any) -> str:
        """Twelve hexadecimal digits that change with whatever changes the steps of a run.

        facts: of the data and the model themselves, in place of where they are.
        """
        unimportant = ("model", "dataset", "corrupt_images", "output_dir")
        relevant = {k: v for k, v in dataclasses.asdict(self).items() if k not in unimportant} | facts
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:12]


def check_training(
    model: str,
    dataset: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    train_backbone: bool,
    image_size: int,
    output_dir: str,
    seed: int,
    optimizer: str = "sgd",
    label_smoothing: float = 0.0,
    clip_norm: float = 1.0,
    corrupt_images: str = "refuse",
    keras: str = "auto",
    precision: str = "auto",
    environment: Mapping[str, str] = os.environ,
) -> TrainingSettings:
    """The settings, if each makes sense: raises ParameterError that names the parameter and what it may be.

    `keras` = "auto" becomes what the environment variable TF_USE_LEGACY_KERAS says: "0" or "false" is Keras 3, and
    anything else, or nothing, tf_keras.
    """
    _text("model", model, "a SavedModel folder, a tarball or a TF Hub handle")
    _text("dataset", dataset, f"{' or '.join(map(repr, DATASETS))}, or a folder with one sub-folder per class")
    if dataset not in DATASETS and not Path(dataset).expanduser().is_dir():
        raise ParameterError(
            f"dataset is {dataset!r}, which is no folder; expected {', '.join(DATASETS)}, or the path of a folder with "
            "one sub-folder of images per class"
        )
    _text("output_dir", output_dir, "the path of a folder, such as 'exports'")
    if Path(output_dir).expanduser().exists() and not Path(output_dir).expanduser().is_dir():
        raise ParameterError(f"output_dir is {output_dir!r}, which is a file; expected the path of a folder")
    whole_number("epochs", epochs, 1, 100_000)
    whole_number("batch_size", batch_size, 1, 65_536)
    _number("learning_rate", learning_rate, 0, 100, above=True)
    if not isinstance(train_backbone, bool):
        raise ParameterError(f"train_backbone is {train_backbone!r}; expected True or False")
    whole_number("image_size", image_size, 0, 4096)
    whole_number("seed", seed, 0, 2**31 - 1)
    one_of("optimizer", optimizer, OPTIMIZERS)
    _number("label_smoothing", label_smoothing, 0, 0.99)
    _number("clip_norm", clip_norm, 0, 1e6)
    one_of("corrupt_images", corrupt_images, CORRUPT)
    one_of("keras", keras, KERAS)
    one_of("precision", precision, PRECISIONS)
    if keras == "auto":
        legacy = environment.get("TF_USE_LEGACY_KERAS", "1").strip().lower() not in ("0", "false")
        keras = "tf_keras" if legacy else "keras_3"
    return TrainingSettings(
        model=model,
        dataset=dataset,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=float(learning_rate),
        train_backbone=train_backbone,
        image_size=image_size,
        output_dir=output_dir,
        seed=seed,
        optimizer=optimizer,
        label_smoothing=float(label_smoothing),
        clip_norm=float(clip_norm),
        corrupt_images=corrupt_images,
        keras=keras,
        precision=precision,
    )


def _text(name: str, value: object, expected: str) -> None:
    if not isinstance(value, str) or not value.strip():
        found = "empty" if isinstance(value, str) else repr(value)
        raise ParameterError(f"{name} is {found}; expected {expected}")


def _number(name: str, value: object, least: float, most: float, above: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most or (above and value == least):
        start = f"above {least} and up" if above else f"from {least}"
        raise ParameterError(f"{name} is {value!r}; expected a number {start} to {most}")
