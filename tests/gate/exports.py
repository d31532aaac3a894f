"""A variant's synthetic weights, its source model and its exports, as tests and benchmarks take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.checkpoints import loading
from utils.families import FAMILIES
from utils.families.variants import OUTPUTS, Variant, get_variant
from utils.images.photographs import any_channels, sample_photographs
from utils.parity.inputs import standard_inputs
from utils.parity.proof import Proof, ReferenceModel
from utils.parity.references import References
from utils.settings import preprocessing_for

if TYPE_CHECKING:
    from torch import nn

    from utils.export.function import ExportedFunction

SEED = 0  # of the synthetic weights and of the images
WEIGHTS = f"synthetic, seed {SEED}: of the official files' format and size, not the official values"


def noise(count: int, image_size: int) -> np.ndarray:
    """Standard normal float32 [count, image_size, image_size, 3]."""
    return np.random.default_rng(SEED).standard_normal((count, image_size, image_size, 3), dtype=np.float32)


def weights_of(variant: Variant) -> dict[str, np.ndarray]:
    """By canonical key; views of the file."""
    return loading.load(loading.resolve(variant, "synthetic", SEED), variant).arrays


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


def proof_of(
    variant: Variant,
    weights: Mapping[str, np.ndarray],
    head: str = "classification",
    size: int | None = None,
) -> Proof:
    """What every export of these weights is held against, on the inputs that a conversion takes."""
    size = size or variant.image_size
    preprocessing = preprocessing_for(variant, size)
    photographs = {title: any_channels(each, preprocessing) for title, each in sample_photographs(2).items()}
    source = FAMILIES[variant.family].models.build(variant.architecture, weights, head)
    inputs = standard_inputs(size, size, 0, photographs, preprocessing.channels)
    return Proof(source, OUTPUTS[head], inputs, variant.architecture.positions(size, size), References())


def exported(variant: Variant, operations: str = "xla", head: str = "classification") -> ExportedFunction:
    """The variant as a TensorFlow function, exported as a conversion does it."""
    models, weights = FAMILIES[variant.family].models, weights_of(variant)
    source = models.build(variant.architecture, weights, head)
    return models.export(source, weights, variant.image_size, operations).function


def prepare_export(kind: str, name: str, head: str = "classification") -> Callable[[Path], object]:
    """For a process of its own: the function that writes an export to a path, as a conversion does.

    kind: "xla" or "plain", of a SavedModel's operations, or "keras" or "onnx" for such a file.
    """
    variant = get_variant(name)
    if kind == "keras":
        from utils.keras_models import saving

        return lambda path: saving.write(path, variant, weights_of(variant), head, variant.image_size, record={})
    if kind == "onnx":
        from utils.export import onnx_file

        graph = FAMILIES[variant.family].models.onnx_graph(source_of(variant, head))
        return lambda path: onnx_file.write(path, graph, weights_of(variant), variant.image_size, {})
    from utils.export.saved_model import save_model

    return lambda folder: save_model(exported(variant, kind, head), folder)
