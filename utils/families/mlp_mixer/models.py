"""MLP-Mixer in Flax, and its ways to TensorFlow and Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from utils.families.base import Export, Weights
from utils.families.mlp_mixer import source as flax
from utils.families.mlp_mixer.source import ReferenceModel
from utils.families.variants import MixerArchitecture
from utils.machine.quiet import quiet_imports

if TYPE_CHECKING:
    import keras

    from utils.export.function import ExportedFunction


def build(architecture: MixerArchitecture, weights: Weights, head: str) -> ReferenceModel:
    """The Flax model with its parameters."""
    model = flax.build(architecture, head)
    return ReferenceModel(model, flax.select_parameters(model, weights))


def predictor(architecture: MixerArchitecture, weights: Weights) -> Callable[[np.ndarray], np.ndarray]:
    """The Flax classifier, compiled, as a function of NHWC arrays."""
    model = flax.build(architecture)
    return flax.as_function(model, flax.select_parameters(model, weights))


def export(source: ReferenceModel, weights: Weights, image_size: int, operations: str) -> Export:
    """Flax -> StableHLO -> `XlaCallModule` by jax2tf, or for "plain" the same model in TensorFlow's operations."""
    with quiet_imports():
        from utils.export import jax_to_tf

    del weights  # the source has those of its head
    architecture, head, parameters = source.model.architecture, source.model.head, source.variables()
    if operations == "plain":
        function = plain(architecture, head, parameters)
    else:
        predict, shape = flax.predict_function(source.model), (image_size, image_size, architecture.channels)
        maps = flax.maps_function(source.model) if head == "fe" else None
        function = jax_to_tf.export(predict, parameters, shape, source.output, maps)
    return Export(function, {key.replace("_", " "): str(value) for key, value in function.extra_versions.items()})


def plain(architecture: MixerArchitecture, head: str, weights: Weights) -> ExportedFunction:
    """The model in TensorFlow's own operations."""
    from utils.families.mlp_mixer.plain import export

    return export(architecture, head, weights)


def keras_model(architecture: MixerArchitecture, weights: Weights, head: str, image_size: int) -> keras.Model:
    """The model of Keras's own layers, at the size that its tokens fix."""
    del image_size
    from utils.families.mlp_mixer import keras_model as layers

    return layers.build(architecture, weights, head)
