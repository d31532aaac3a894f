"""The source model that an artefact was made from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from utils.artefact.opening import Pretrained
from utils.checkpoints.loading import Checkpoint, Wanted, load, resolve
from utils.errors import EvaluationError
from utils.families import FAMILIES
from utils.families.recipe import Recipe
from utils.families.variants import OWN
from utils.machine.quiet import quiet_imports
from utils.settings import KEYWORDS

Predict = Callable[[np.ndarray], np.ndarray]  # float32 [B, H, W, C], normalised -> float32 logits [B, classes]


def find_checkpoint(model: Pretrained, checkpoint: str) -> Checkpoint:
    """The file of the source model: a path, "official", or "synthetic" with the seed that the manifest records."""
    if model.manifest.get("training") is not None:
        raise EvaluationError(
            f"{model.name} was fine-tuned here, so no source framework has its weights. Leave --checkpoint out."
        )
    if model.folder is None and model.weights != "official":
        raise EvaluationError(
            f"{model.name}: this file does not record how its checkpoint was read. Give the SavedModel, or leave "
            "--checkpoint out."
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
