"""ConvMixer once more, in the operations that TFLite knows: what its files are converted from.

In the exported function GELU's constants lie in other layers (`gelu_folding`), and patches are cut by hand. Here GELU
is whole and convolutions are convolutions, which TFLite's runtimes have kernels for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from utils.export.function import ExportedFunction
from utils.families.variants import ConvMixerArchitecture

# TFLite recognises no other order of GELU's factors but tf.nn.gelu's, by erfc.
ACTIVATIONS = {"gelu": lambda x: 0.5 * x * (1 + tf.math.erf(x * math.sqrt(0.5))), "relu": tf.nn.relu}

Scope = Callable[[str], tf.Variable]


def export(
    architecture: ConvMixerArchitecture, arrays: Mapping[str, np.ndarray], image_size: int | None
) -> ExportedFunction:
    """The classifier, for inference only.

    arrays: the exported function's variables, by their names in the checkpoint, kernels in TensorFlow's axis order.
    image_size: height and width in pixels; None or 0 for any.
    """
    variables = {name: tf.Variable(array, name=name) for name, array in arrays.items()}

    def call(inputs: tf.Tensor, training: bool) -> tf.Tensor:
        del training
        return _convmixer(inputs, architecture, variables.__getitem__)

    side = image_size or None
    return ExportedFunction(
        call=call,
        variables=variables,
        trainable={},
        output="logits",
        units=architecture.classes,
        input_shape=(side, side, 3),
    )


def _convmixer(inputs: tf.Tensor, a: ConvMixerArchitecture, scope: Scope) -> tf.Tensor:
    x = tf.nn.conv2d(inputs, scope("stem.0.weight"), strides=a.patch_size, padding="VALID")
    x = _activation_and_norm(x, a, scope, "stem.{}", 0)
    for block in range(a.depth):
        kernel = scope(f"blocks.{block}.0.fn.0.weight")  # [height, width, 1, dim]
        y = tf.nn.depthwise_conv2d(x, tf.reshape(kernel, (*kernel.shape[:2], a.dim, 1)), (1, 1, 1, 1), "SAME")
        x += _activation_and_norm(y, a, scope, f"blocks.{block}.0.fn.{{}}", 0)
        y = tf.nn.conv2d(x, scope(f"blocks.{block}.1.weight"), strides=1, padding="VALID")
        x = _activation_and_norm(y, a, scope, f"blocks.{block}.{{}}", 1)
    x = tf.reduce_mean(tf.reduce_mean(x, axis=1), axis=1)  # as `torch_to_onnx.GlobalAveragePool`
    return tf.nn.bias_add(tf.matmul(x, scope("head.weight")), scope("head.bias"))


def _activation_and_norm(x: tf.Tensor, a: ConvMixerArchitecture, scope: Scope, layer: str, number: int) -> tf.Tensor:
    """A convolution's bias, and the two layers behind it, in a checkpoint numbered from the convolution's `number`."""
    x = ACTIVATIONS[a.activation](tf.nn.bias_add(x, scope(f"{layer.format(number)}.bias")))
    parts = ("running_mean", "running_var", "bias", "weight")
    statistics = [scope(f"{layer.format(number + 2)}.{part}") for part in parts]
    return tf.nn.batch_normalization(x, *statistics, a.batch_norm_epsilon)
