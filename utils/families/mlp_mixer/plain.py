"""The Mixer once more, in ordinary TensorFlow operations: for tools that cannot run an `XlaCallModule`.

The one exporter that knows its model, because nothing translates Flax to such operations any more. It is held to
the same parity gate as the other. Written for speed on a CPU: activations stay [B * tokens, channels], since on two
dimensions Grappler fuses MatMul, BiasAdd and, with oneDNN, GELU into one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import tensorflow as tf

from utils.export.function import ExportedFunction
from utils.families.base import tapped_blocks
from utils.families.variants import MixerArchitecture

MINIMUM_TENSORFLOW = "2.14"  # as of the other kind; measured with benchmarks/compat.py, in which 2.13 runs it too

Scope = Callable[[str], tf.Variable]

# GELU exactly as Grappler and TFLite recognise it: the spelling counts. The exact one is that of `export.onnx_to_tf`.
ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "gelu": lambda x: 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5))),
    "gelu_tanh": partial(tf.nn.gelu, approximate=True),
    "relu": tf.nn.relu,
}


def export(architecture: MixerArchitecture, head: str, parameters: Mapping[str, np.ndarray]) -> ExportedFunction:
    """The model for `head`, "classification" or "fe", with the flat parameters of a Flax checkpoint.

    Every parameter becomes a trainable `tf.Variable` of its name; they must be complete and of the right shapes,
    as `mlp_mixer.select_parameters` returns them.
    """
    variables = {name: tf.Variable(value, name=name) for name, value in parameters.items()}

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        del training  # a Mixer has nothing that behaves otherwise in training
        return _mixer(inputs, architecture, head, variables.__getitem__)

    def maps(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        stem, *blocks = _stream(inputs, architecture, variables.__getitem__)
        found = {"stem": stem} | {name: blocks[i] for name, i in tapped_blocks(architecture.blocks).items()}
        side = architecture.image_size // architecture.patch_size
        return {name: tf.reshape(x, [-1, side, side, architecture.hidden_dim]) for name, x in found.items()}

    size = architecture.image_size
    return ExportedFunction(
        call=call,
        variables=variables,
        trainable=dict(variables),
        output="features" if head == "fe" else "logits",
        units=architecture.hidden_dim if head == "fe" else architecture.classes,
        input_shape=(size, size, architecture.channels),
        extra_versions={"minimum_tensorflow": MINIMUM_TENSORFLOW},
        maps=maps if head == "fe" else None,
    )


def _mixer(inputs: tf.Tensor, architecture: MixerArchitecture, head: str, scope: Scope) -> tf.Tensor:
    tokens, channels = architecture.tokens, architecture.hidden_dim
    *_, x = _stream(inputs, architecture, scope)
    x = _layer_norm(x, architecture.layer_norm_epsilon, _within(scope, "pre_head_layer_norm"))
    x = tf.reduce_mean(tf.reshape(x, [-1, tokens, channels]), axis=1)
    return x if head == "fe" else _dense(x, _within(scope, "head"))


def _stream(inputs: tf.Tensor, architecture: MixerArchitecture, scope: Scope) -> Iterator[tf.Tensor]:
    """What comes out of the stem, then of each block, [B * tokens, channels]."""
    x = tf.nn.conv2d(inputs, scope("stem/kernel"), strides=architecture.patch_size, padding="VALID")
    yield (x := tf.reshape(tf.nn.bias_add(x, scope("stem/bias")), [-1, architecture.hidden_dim]))
    for i in range(architecture.blocks):
        yield (x := _block(x, architecture, _within(scope, f"MixerBlock_{i}")))


def _block(x: tf.Tensor, architecture: MixerArchitecture, scope: Scope) -> tf.Tensor:
    """Mixes over tokens, then over channels; [B * tokens, channels] -> the same."""
    tokens, channels, epsilon = architecture.tokens, architecture.hidden_dim, architecture.layer_norm_epsilon
    y = _layer_norm(x, epsilon, _within(scope, "LayerNorm_0"))
    activation = ACTIVATIONS[architecture.activation]
    y = _mlp(_swap(y, tokens, channels), activation, _within(scope, "token_mixing"))
    x += _swap(y, channels, tokens)
    y = _layer_norm(x, epsilon, _within(scope, "LayerNorm_1"))
    return x + _mlp(y, activation, _within(scope, "channel_mixing"))


def _mlp(x: tf.Tensor, activation: Callable[[tf.Tensor], tf.Tensor], scope: Scope) -> tf.Tensor:
    x = activation(_dense(x, _within(scope, "Dense_0")))
    return _dense(x, _within(scope, "Dense_1"))


def _dense(x: tf.Tensor, scope: Scope) -> tf.Tensor:
    return tf.nn.bias_add(tf.matmul(x, scope("kernel")), scope("bias"))


def _layer_norm(x: tf.Tensor, epsilon: float, scope: Scope) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return tf.nn.bias_add(centred * tf.math.rsqrt(variance + epsilon) * scope("scale"), scope("bias"))


def _swap(x: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    """[B * rows, columns] -> [B * columns, rows], image by image."""
    x = tf.transpose(tf.reshape(x, [-1, rows, columns]), [0, 2, 1])
    return tf.reshape(x, [-1, rows])


def _within(scope: Scope, name: str) -> Scope:
    return lambda parameter: scope(f"{name}/{parameter}")
