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

from utils.artefact.opening import is_keras
from utils.errors import ParameterError
from utils.families.variants import check_name
from utils.images.zipped import is_zip
from utils.settings import check_output_dir, one_of, some_text, whole_number

DATASETS = ("auto", "tf_flowers", "digits")
# Parameters of earlier versions. papermill injects a parameter that the notebook does not have, and only warns.
RENAMED = {"train_backbone": 'Use train = "all" for True, train = "head" for False, or train = "auto"'}


@dataclass(frozen=True)
class TrainingSettings:
    """What a run is asked to do; two runs of equal settings on equal data do the same steps.

    Attributes:
        model: a SavedModel folder, a tarball, a `.keras` file or a TF Hub handle; "auto" for what there is.
        dataset: one of DATASETS, or a folder with one sub-folder per class, also as a zip file: its path or URL.
        train: "head" fits the head alone, "all" then trains everything; "auto" is "head" on a CPU, else "all".
        epochs: for "all"; "auto" by the number of images.
        learning_rate: for "all", at its peak; "auto" by optimizer, batch size, family and kind of weights.
        image_size: in pixels; 0 for the size that the model was made for.
        batch_norm: for "all", what BatchNorm normalises by: its "moving" statistics, or those of the "batch".
        class_weight: "none", or "balanced" to count images of rare classes for more.
        clip_norm: of all gradients together; 0 for no clipping.
        corrupt_images: "refuse" or "skip" files that cannot be decoded.
        keras: "tf_keras", "keras_3", or "auto".
        precision: "float32", or "auto": float16 on GPUs that gain from it.
        tflite: which TFLite file is made at the end: "none", "float32", "float16" or "int8".
        name: of the artefact, before `_classification`; "" for the extractor's, with the data set's behind it.
        overwrite: let it take the place of an artefact of that name which was made from something else.
    """

    model: str = "auto"
    dataset: str = "auto"
    train: str = "auto"
    epochs: int | str = "auto"
    batch_size: int = 32
    learning_rate: float | str = "auto"
    image_size: int = 0
    output_dir: str = "exports"
    seed: int = 0
    batch_norm: str = "moving"
    class_weight: str = "none"
    optimizer: str = "sgd"
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    corrupt_images: str = "refuse"
    keras: str = "auto"
    precision: str = "auto"
    tflite: str = "none"
    name: str = ""
    overwrite: bool = False

    def checked(self, given: Mapping[str, object] | None = None) -> TrainingSettings:
        """The same settings with a choice made for `keras`. ParameterError names a parameter and what it may be.

        "auto" is "keras_3" for a `.keras` file, and otherwise what the environment variable TF_USE_LEGACY_KERAS says:
        "0" or "false" is Keras 3, and anything else, or nothing, tf_keras.

        given: the notebook's names. A parameter of an earlier version among them is refused, with its new name.
        """
        if old := next((name for name in RENAMED if name in (given or {})), ""):
            raise ParameterError(f"{old} is no parameter any more. {RENAMED[old]}")
        some_text("model", self.model, "a SavedModel folder, a tarball, a .keras file or a TF Hub handle")
        folder = "the path of a folder with one sub-folder of images per class, or of such a folder as a .zip file"
        some_text("dataset", self.dataset, f"{', '.join(DATASETS)}, or {folder}")
        if self.dataset not in DATASETS and not (is_zip(self.dataset) or Path(self.dataset).expanduser().is_dir()):
            raise ParameterError(
                f"dataset is {self.dataset!r}, which is no folder; expected {', '.join(DATASETS)}, or {folder}"
            )
        check_output_dir(self.output_dir)
        if self.epochs != "auto":
            whole_number("epochs", self.epochs, 1, 100_000, '"auto" or ')
        whole_number("batch_size", self.batch_size, 1, 65_536)
        if not isinstance(self.overwrite, bool):
            raise ParameterError(f"overwrite is {self.overwrite!r}; expected True or False")
        if self.name != "":
            check_name(self.name)
        whole_number("image_size", self.image_size, 0, 4096)
        whole_number("seed", self.seed, 0, 2**31 - 1)
        one_of("train", self.train, ("auto", "head", "all"))
        one_of("batch_norm", self.batch_norm, ("moving", "batch"))
        one_of("class_weight", self.class_weight, ("none", "balanced"))
        one_of("optimizer", self.optimizer, ("sgd", "adamw"))
        one_of("corrupt_images", self.corrupt_images, ("refuse", "skip"))
        one_of("tflite", self.tflite, ("none", "float32", "float16", "int8"))
        one_of("precision", self.precision, ("auto", "float32"))
        # A whole number is the same setting as its float, and is to have the same digest.
        floats: dict[str, Any] = {
            "label_smoothing": _number("label_smoothing", self.label_smoothing, 0.99),
            "clip_norm": _number("clip_norm", self.clip_norm, 1e6),
        }
        if self.learning_rate != "auto":
            floats["learning_rate"] = _number("learning_rate", self.learning_rate, 100, zero=False, other='"auto" or ')
        return dataclasses.replace(self, keras=self._checked_keras(), **floats)

    def _checked_keras(self) -> str:
        one_of("keras", self.keras, ("auto", "tf_keras", "keras_3"))
        keras = self.keras
        if keras == "auto":
            legacy = os.environ.get("TF_USE_LEGACY_KERAS", "1").strip().lower() not in ("0", "false")
            keras = "tf_keras" if legacy and not is_keras(self.model) else "keras_3"
        if keras == "tf_keras" and is_keras(self.model):
            raise ParameterError(
                f"keras is 'tf_keras', which loads no .keras file, and model is {self.model}; expected 'keras_3' or "
                "'auto', or the SavedModel beside it"
            )
        backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
        if keras == "keras_3" and backend != "tensorflow":
            raise ParameterError(
                f"keras is 'keras_3', and KERAS_BACKEND is {backend!r} here; expected 'tensorflow', on which this "
                "notebook trains. Set it before Python starts; docs/keras.md shows how to train on the others"
            )
        return keras

    def digest(self, **facts: Any) -> str:
        """Twelve hexadecimal digits that change with whatever changes the steps of a run.

        facts: of the data and the model themselves, in place of where they are.
        """
        unimportant = ("model", "dataset", "corrupt_images", "output_dir", "tflite", "name", "overwrite")
        relevant = {k: v for k, v in dataclasses.asdict(self).items() if k not in unimportant} | facts
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:12]


def _number(name: str, value: object, most: float, zero: bool = True, other: str = "") -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not 0 <= value <= most or not (zero or value):
        raise ParameterError(f"{name} is {value!r}; expected {other}a number {'from' if zero else 'above'} 0 to {most}")
    return float(value)
