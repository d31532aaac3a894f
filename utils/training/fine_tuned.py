"""A fine-tuned classifier, ready to be saved: the extractor's function with trained values, and the new head."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils.artefact import extra_formats
from utils.artefact.opening import Pretrained
from utils.artefact.record import build_record
from utils.errors import PackagingError
from utils.export.function import ExportedFunction
from utils.export.saved_model import load_model, name_of
from utils.families import FAMILIES
from utils.images.labels import Label
from utils.keras_models import saving
from utils.keras_models.candidate import load_candidate
from utils.parity.comparison import Model, compare_arrays, compare_outputs
from utils.parity.golden import Golden
from utils.parity.judge import EXACT, OUTPUT_TOLERANCE
from utils.parity.report import Report
from utils.training.datasets import LabelledImages
from utils.training.keras_worlds import Trainable
from utils.training.settings import TrainingSettings


def classifier(
    folder: Path, family: str, values: Mapping[str, np.ndarray], kernel: np.ndarray, bias: np.ndarray
) -> ExportedFunction:
    """The extractor in `folder`, loaded anew and given `values`, followed by `features @ kernel + bias`.

    values: the backbone's arrays by name. kernel: float32 [width, classes]. bias: float32 [classes]. Independent of
    the Keras that trained, and of the devices. Raises PackagingError when `values` are not the extractor's variables.
    """
    backbone = load_model(folder)
    variables = {name_of(variable): variable for variable in backbone.variables}
    if set(variables) != set(values):
        raise PackagingError(
            f"the trained weights are not those of {folder}: missing {sorted(set(variables) - set(values))}, "
            f"unknown {sorted(set(values) - set(variables))}."
        )
    for name, variable in variables.items():
        variable.assign(values[name])
    trainable = {name_of(variable): variable for variable in backbone.trainable_variables}
    names = FAMILIES[family].head_keys
    head = {name: tf.Variable(value, name=name) for name, value in zip(names, (kernel, bias), strict=True)}

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        features = backbone(inputs, training=training)
        return tf.nn.bias_add(tf.matmul(features, head[names[0]]), head[names[1]])

    shape = backbone.signatures["serving_default"].structured_input_signature[1]["inputs"].shape
    return ExportedFunction(
        call=call,
        variables=variables | head,
        trainable=trainable | head,
        output="logits",
        units=len(bias),
        input_shape=tuple(shape.as_list()[1:]),
        # A Mixer's gradient is one that its exporter defined; without this it would be lost on the way.
        save_options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
    )


def write_keras(
    path: Path,
    trainable: Trainable,
    extractor: Pretrained,
    name: str,
    dataset: str,
    labels: Sequence[Label],
    golden: Golden,
) -> Path:
    """What was trained from a `.keras` file as another one, without its optimizer; all of it can be trained again.

    dataset: its name. labels: of the classes, in order. golden: what the trained model computes.
    """
    told = build_record(
        name=name,
        variant=extractor.variant,
        head="classification",
        weights=extractor.weights,
        source=extractor.manifest["source"],
        parameters=extractor.manifest["parameters"] + (extractor.units + 1) * len(labels),
        units=len(labels),
        image_size=extractor.image_size,
        preprocessing=extractor.preprocessing,
        labels=labels,
        golden=golden,
        tolerance=OUTPUT_TOLERANCE,
        training={"dataset": dataset, "extractor": extractor.name},
    )
    trainable.model.trainable = True
    (inputs,), (outputs,) = trainable.model.inputs, trainable.model.outputs
    return saving.save(trainable.keras.Model(inputs, outputs, name=trainable.model.name), path, told)


def proved_keras(
    path: Path, family: str, expected: Mapping[str, np.ndarray], trained: Model, images: np.ndarray
) -> dict[str, Any]:
    """For the manifest, where the file, loaded again, has the `expected` arrays and gives what `trained` does.

    expected: by name in the checkpoint, as the SavedModel has them. images: float32 [B, height, width, 3].
    ParityError where it does not.
    """
    candidate = load_candidate(path, family)
    found = {key: array.reshape(expected[key].shape) for key, array in candidate.variables().items()}
    rows = compare_arrays(expected, found, output="variables", tolerance=EXACT)
    rows += compare_outputs(trained, candidate, {"validation images": images}, "logits")
    reports = {"tensorflow": Report(rows)}
    extra_formats.require("keras", reports)
    return extra_formats.facts("keras", path, reports)


def fine_tuned_name(extractor_name: str, dataset: str) -> str:
    """Of the artefact: `<variant>_classification[_plain]_<dataset>[_synthetic]`, from the extractor's own name.

    dataset: its name; of characters that an artefact's name may not have, only underscores are left. One that ends as
    if it told of the weights or their storage is followed by "_images".
    """
    synthetic = "_synthetic" if extractor_name.endswith("_synthetic") else ""
    stem = extractor_name.removesuffix("_synthetic").replace("_fe", "_classification", 1)
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", dataset).strip("_")[:40] or "images"
    if plain.rpartition("_")[2] in ("synthetic", "float32", "float16", "int8"):
        plain += "_images"
    return f"{stem}_{plain}{synthetic}"


def training_record(
    settings: TrainingSettings,
    images: LabelledImages,
    extractor_name: str,
    history: Mapping[str, Sequence[float]],
    best_epoch: int,
) -> dict[str, Any]:
    """The manifest's `training`: history by epoch, the epoch that was kept (from 1), data set, settings, extractor."""
    told = dataclasses.asdict(settings) | {"dataset": images.name}
    for path in ("model", "output_dir"):  # they tell about the machine; what they name is told otherwise
        del told[path]
    return {
        "history": {name: list(values) for name, values in history.items()},
        "best_epoch": best_epoch + 1,
        "dataset": {
            "name": images.name,
            "classes": len(images.classes),
            "training_images": len(images.train),
            "validation_images": len(images.validation),
            "skipped_files": len(images.skipped),
            "sha256": images.fingerprint,
        },
        "settings": told,
        "extractor": extractor_name,
    }
