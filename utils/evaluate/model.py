"""What is evaluated: a SavedModel with its manifest and class names, and the source model that it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.artefact.manifest import installed_versions
from utils.artefact.opening import open_model
from utils.checkpoints.loading import Checkpoint, load, resolve
from utils.errors import EvaluationError, PackagingError
from utils.images.labels import Label
from utils.machine.quiet import quiet_imports
from utils.models.variants import Preprocessing, Variant

FRAMEWORKS = {"convmixer": "PyTorch", "mixer": "Flax"}  # of the source models, by family
_PACKAGES = {"convmixer": ("torch",), "mixer": ("jax", "flax")}
Predict = Callable[[np.ndarray], np.ndarray]  # float32 [B, H, W, 3], normalised -> float32 logits [B, classes]


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier. `labels` is None where it names no classes; `sha256` is of all its files."""

    manifest: Mapping[str, Any]
    variant: Variant
    preprocessing: Preprocessing
    labels: list[Label] | None
    classes: int
    sha256: str
    predict: Predict
    predict_image: Predict | None  # uint8 [1, H, W, 3] of any size -> logits: the signature serving_image, if it has it


def load_classifier(path: str) -> Classifier:
    """Loads a classifier of ours; raises as `open_model`, and PackagingError for what gives no classes."""
    opened = open_model(path)
    if opened.output != "logits":
        raise PackagingError(f"{opened.name} is a feature extractor: it gives no classes to evaluate.")
    with quiet_imports():
        from utils.export import saved_model
    model = saved_model.load_model(opened.folder)
    try:
        classes = int(model.signatures["serving_default"].structured_outputs["logits"].shape[-1])
    except (AttributeError, KeyError, TypeError) as error:
        raise PackagingError(f"{path} has no signature serving_default that gives logits [B, classes].") from error
    if classes != opened.units:
        raise PackagingError(f"{path} gives {classes:,} logits; its manifest says {opened.units:,}. Convert it again.")
    return Classifier(
        manifest=opened.manifest,
        variant=opened.variant,
        preprocessing=opened.preprocessing,
        labels=opened.labels,
        classes=classes,
        sha256=hashlib.sha256(json.dumps(dict(opened.hashes)).encode()).hexdigest(),
        predict=saved_model.as_function(model),
        predict_image=_predict_image(model),
    )


def _predict_image(model: Any) -> Predict | None:
    import tensorflow as tf

    if "serving_image" not in model.signatures:
        return None
    signature = model.signatures["serving_image"]
    return lambda image: signature(images=tf.constant(image))["logits"].numpy()


def versions_of(variant: Variant) -> dict[str, str]:
    """Of everything that figures may depend on."""
    return installed_versions(("tensorflow", "pillow", "numpy", *_PACKAGES[variant.family]))


def find_checkpoint(model: Classifier, checkpoint: str) -> Checkpoint:
    """The file of the source model: a path, "official", or "synthetic" with the seed that the manifest records."""
    if "training" in model.manifest:
        raise EvaluationError(
            f"{model.manifest['name']} was fine-tuned here, so no source framework has its weights. "
            "Leave --checkpoint out."
        )
    seed = model.manifest.get("settings", {}).get("seed", 0)
    return resolve(model.variant, checkpoint, seed)


def load_source(variant: Variant, checkpoint: Checkpoint, use_ema: bool = False) -> Predict:
    """The model of the source framework, with the weights' moving average if asked for; CheckpointError as `load`."""
    loaded = load(checkpoint, variant, use_ema=use_ema)
    if variant.family == "convmixer":
        with quiet_imports():
            from utils.models import convmixer
        return convmixer.as_nhwc(convmixer.build_convmixer(loaded.variant.architecture, loaded.arrays))
    with quiet_imports():
        from utils.models import mlp_mixer
    model = mlp_mixer.build(loaded.variant.architecture)
    parameters = mlp_mixer.select_parameters(model, loaded.arrays)
    return mlp_mixer.as_function(model, parameters)
