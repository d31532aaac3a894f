"""What is evaluated: a SavedModel as functions, and the source model that it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from utils.artefact.opening import Pretrained, open_model
from utils.checkpoints.loading import Checkpoint, Wanted, load, resolve
from utils.errors import EvaluationError, PackagingError
from utils.families import FAMILIES
from utils.families.recipe import Recipe
from utils.families.variants import OWN
from utils.machine.quiet import quiet_imports
from utils.settings import KEYWORDS

Predict = Callable[[np.ndarray], np.ndarray]  # float32 [B, H, W, C], normalised -> float32 logits [B, classes]


class Classifier(NamedTuple):
    """A loaded classifier; `predict_image` is its signature serving_image, if it has it, of uint8 [1, H, W, 3]."""

    opened: Pretrained
    sha256: str  # of all its files
    predict: Predict
    predict_image: Predict | None


def load_classifier(path: str) -> Classifier:
    """Loads a classifier of ours; raises as `open_model`, ParameterError for one that takes no photographs.

    PackagingError for what is not what its manifest says.
    """
    opened = open_model(path)
    if opened.output != "logits":
        raise PackagingError(f"{opened.name} is a feature extractor: it gives no classes to evaluate.")
    opened.preprocessing.check_photographs(opened.name)
    with quiet_imports():
        import tensorflow as tf

        from utils.export import saved_model
    model = saved_model.load_model(opened.folder)
    found = saved_model.describe_signatures(model).get("serving_default")
    if found != (told := opened.manifest["signatures"]["serving_default"]):
        raise PackagingError(f"{path}: serving_default is {found}; its manifest says {told}. Convert it again.")
    signature = model.signatures.get("serving_image")
    predict_image = signature and (lambda image: signature(images=tf.constant(image))["logits"].numpy())
    sha256 = hashlib.sha256(json.dumps(dict(opened.hashes)).encode()).hexdigest()
    return Classifier(opened, sha256, saved_model.as_function(model), predict_image)


def find_checkpoint(model: Pretrained, checkpoint: str) -> Checkpoint:
    """The file of the source model: a path, "official", or "synthetic" with the seed that the manifest records."""
    if "training" in model.manifest:
        raise EvaluationError(
            f"{model.name} was fine-tuned here, so no source framework has its weights. Leave --checkpoint out."
        )
    if model.variant.name == OWN and checkpoint in KEYWORDS:
        raise EvaluationError(
            f"{model.name} was made from a checkpoint of its maker's. Set --checkpoint to the path of that file."
        )
    return resolve(model.variant, checkpoint, model.manifest.get("settings", {}).get("seed", 0))


def load_source(model: Pretrained, checkpoint: Checkpoint) -> Predict:
    """The model of the source framework, read as it was converted; CheckpointError as `loading.load`."""
    variant, settings = model.variant, model.manifest.get("settings", {})
    architecture = variant.architecture
    recipe = Recipe(activation=architecture.activation, epsilon=getattr(architecture, architecture.EPSILON))
    wanted = Wanted(
        variant=variant,
        recipe=recipe,
        weights=settings.get("weights", "auto"),
        use_ema=settings.get("use_ema", False),
        names=model.manifest.get("names", {}),
    )
    loaded = load(checkpoint, wanted)
    with quiet_imports():
        models = FAMILIES[variant.family].models
    return models.predictor(loaded.variant.architecture, loaded.arrays)
