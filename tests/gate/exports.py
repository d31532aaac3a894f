"""A variant's synthetic weights, its source model and its exports, as tests and benchmarks take them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.checkpoints import loading
from utils.families import FAMILIES
from utils.families.variants import Variant, get_variant

if TYPE_CHECKING:
    from torch import nn

    from utils.export.function import ExportedFunction
    from utils.parity.proof import ReferenceModel

SEED = 0  # of the synthetic weights and of the images
WEIGHTS = f"synthetic, seed {SEED}: of the official files' format and size, not the official values"


def noise(count: int, image_size: int) -> np.ndarray:
    """Standard normal float32 [count, image_size, image_size, 3]."""
    return np.random.default_rng(SEED).standard_normal((count, image_size, image_size, 3), dtype=np.float32)


def weights_of(variant: Variant) -> dict[str, np.ndarray]:
    """By canonical key; views of the file."""
    return loading.read(loading.resolve(variant, "synthetic", SEED, progress=False).path, variant)


def source_of(variant: Variant, head: str = "classification") -> ReferenceModel:
    """The source model in its own framework."""
    return FAMILIES[variant.family].models.build(variant.architecture, weights_of(variant), head)


def torch_model(variant: Variant, head: str = "classification") -> nn.Module:
    """A ConvMixer in PyTorch."""
    return source_of(variant, head).model


def flax_model(variant: Variant, head: str = "classification") -> tuple[Callable, dict[str, Any]]:
    """A Mixer in Flax: `(parameters, inputs)` -> output, and the parameters."""
    from utils.families.mlp_mixer.source import predict_function

    source = source_of(variant, head)
    return predict_function(source.model), source.variables()


def exported(variant: Variant, operations: str = "xla", head: str = "classification") -> ExportedFunction:
    """The variant as a TensorFlow function, exported as a conversion does it."""
    models, weights = FAMILIES[variant.family].models, weights_of(variant)
    source = models.build(variant.architecture, weights, head)
    return models.export(source, weights, variant.image_size, operations).function


def prepare_export(operations: str, name: str, head: str = "classification") -> Callable[[Path], object]:
    """For a process of its own: the function that writes the SavedModel into a folder."""
    from utils.export.saved_model import save_model

    return lambda folder: save_model(exported(get_variant(name), operations, head), folder)
