"""MLP-Mixer as a functional model of Keras 3's own layers, in the order of the data.

Paper: "MLP-Mixer: An all-MLP Architecture for Vision", https://arxiv.org/abs/2105.01601. Layers have the checkpoint's
names, with dashes for slashes.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers

from utils.families.mlp_mixer.layout import KERAS_NAMES
from utils.families.variants import MixerArchitecture
from utils.keras_models.saving import ACTIVATIONS, fill


def build(
    architecture: MixerArchitecture, weights: Mapping[str, np.ndarray], head: str = "classification"
) -> keras.Model:
    """Float32 [B, H, W, C], H = W = image_size -> logits [B, classes] or, for the head "fe", features [B, hidden_dim].

    Raises CheckpointError, as `fill`.
    """
    a = architecture
    inputs = keras.Input((a.image_size, a.image_size, a.channels), name="inputs")
    x = layers.Conv2D(a.hidden_dim, a.patch_size, strides=a.patch_size, name="stem")(inputs)
    x = layers.Reshape((a.tokens, a.hidden_dim), name="tokens")(x)  # patches in row order
    for block in range(a.blocks):
        name = f"MixerBlock_{block}"
        y = _norm(a, f"{name}-LayerNorm_0")(x)
        y = layers.Permute((2, 1), name=f"{name}-channels_by_tokens")(y)
        y = _mlp(y, a.tokens_mlp_dim, a.activation, f"{name}-token_mixing")
        y = layers.Permute((2, 1), name=f"{name}-tokens_by_channels")(y)
        x = layers.Add(name=f"{name}-token_mixing")([x, y])
        y = _norm(a, f"{name}-LayerNorm_1")(x)
        y = _mlp(y, a.channels_mlp_dim, a.activation, f"{name}-channel_mixing")
        x = layers.Add(name=f"{name}-channel_mixing")([x, y])
    x = _norm(a, "pre_head_layer_norm")(x)
    x = layers.GlobalAveragePooling1D(name="pooling")(x)
    if head != "fe":
        x = layers.Dense(a.classes, name="head")(x)

    unused = ["head/kernel", "head/bias"] if head == "fe" else []
    return fill(keras.Model(inputs, x, name="mlp_mixer"), weights, KERAS_NAMES, unused)


def _norm(a: MixerArchitecture, name: str) -> keras.Layer:
    return layers.LayerNormalization(epsilon=a.layer_norm_epsilon, name=name)


def _mlp(x: keras.KerasTensor, hidden: int, activation: str, name: str) -> keras.KerasTensor:
    """Two dense layers over the last axis, with the activation between them."""
    width = x.shape[-1]
    x = layers.Dense(hidden, name=f"{name}-Dense_0")(x)
    x = layers.Activation(ACTIVATIONS[activation], name=f"{name}-{activation.removesuffix('_tanh')}")(x)
    return layers.Dense(width, name=f"{name}-Dense_1")(x)
