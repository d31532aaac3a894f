"""ConvMixer as a functional model of Keras 3's own layers, in the order of the data.

Paper: "Patches Are All You Need?", https://arxiv.org/abs/2201.09792. Layers have the checkpoint's names, with dashes
for dots.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from utils.families.convmixer.layout import KERAS_NAMES
from utils.families.variants import ConvMixerArchitecture
from utils.keras_models.saving import ACTIVATIONS, MOMENTUM, fill


def build(
    architecture: ConvMixerArchitecture,
    weights: Mapping[str, np.ndarray],
    head: str = "classification",
    image_size: int | None = None,
) -> keras.Model:
    """The model: float32 [B, H, W, C], normalised -> logits [B, classes] or features [B, dim].

    Args:
        architecture: the variant's.
        weights: arrays by canonical key.
        head: "classification", or "fe" for features.
        image_size: of both sides, in pixels; None or 0 for any height and width.

    Raises:
        CheckpointError: the weights do not fit.
    """
    a, size = architecture, image_size or None
    inputs = keras.Input((size, size, a.channels), name="inputs")
    x = layers.Conv2D(a.dim, a.patch_size, strides=a.patch_size, name="stem-0")(inputs)
    x = _activation_and_norm(x, a, "stem-1", "stem-2")
    for block in range(a.depth):
        name = f"blocks-{block}"
        y = layers.DepthwiseConv2D(a.kernel_size, padding="same", name=f"{name}-0-fn-0")(x)
        y = _activation_and_norm(y, a, f"{name}-0-fn-1", f"{name}-0-fn-2")
        x = layers.Add(name=f"{name}-0")([x, y])
        x = layers.Conv2D(a.dim, 1, name=f"{name}-1")(x)
        x = _activation_and_norm(x, a, f"{name}-2", f"{name}-3")
    # TensorFlow adds the terms of a mean one by one, unless they lie side by side: its error grows with their number.
    x = layers.Permute((3, 1, 2), name="channels_first")(x)
    x = layers.GlobalAveragePooling2D(data_format="channels_first", name="pooling")(x)
    if head != "fe":
        x = layers.Dense(a.classes, name="head")(x)

    unused = [key for key in weights if key.endswith("num_batches_tracked")]  # counted, and nothing computed with it
    unused += ["head.weight", "head.bias"] if head == "fe" else []
    return fill(keras.Model(inputs, x, name="convmixer"), weights, KERAS_NAMES, unused)


def _activation_and_norm(
    x: keras.KerasTensor, a: ConvMixerArchitecture, activation: str, norm: str
) -> keras.KerasTensor:
    """ConvMixer normalises *after* the activation."""
    x = layers.Activation(ACTIVATIONS[a.activation], name=activation)(x)
    return layers.BatchNormalization(momentum=MOMENTUM, epsilon=a.batch_norm_epsilon, name=norm)(x)
