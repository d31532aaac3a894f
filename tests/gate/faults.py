"""Faults that a converter can make, planted in an export on its way: none may pass the gate.

What a fault plants changes an ONNX graph and the weights in place (a Mixer has no such graph: None). `FAULTS` lists, by
family, what the tests and `benchmarks.gate_margins` plant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from onnx import helper

from utils.families.mlp_mixer import source as mlp_mixer
from utils.families.variants import Variant


def nodes(graph, op_type):
    return [node for node in graph.graph.node if node.op_type == op_type]


def set_attributes(node, **values):
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])


# --- of a ConvMixer: in the graph and the weights


def attribute(op_type, **values):
    """Of every node of that type."""

    def plant(graph, weights):
        for node in nodes(graph, op_type):
            set_attributes(node, **values)

    return plant


def operator(op_type, another, which=slice(None)):
    """In its place, without attributes."""

    def plant(graph, weights):
        for node in nodes(graph, op_type)[which]:
            node.op_type = another
            del node.attribute[:]

    return plant


def weight(key, change):
    def plant(graph, weights):
        weights[key] = np.ascontiguousarray(change(weights[key]))

    return plant


def swapped(one, another):
    """All weights whose keys begin with the one or the other."""

    def plant(graph, weights):
        for key in [key for key in weights if key.startswith(one)]:
            other = key.replace(one, another)
            weights[key], weights[other] = weights[other], weights[key]

    return plant


def height_and_width_swapped(graph, weights):
    (first,) = [node for node in nodes(graph, "Transpose") if node.input[0] == "inputs"]
    set_attributes(first, perm=[0, 3, 2, 1])  # what transpose(1, 3) does, where permute(0, 3, 1, 2) is right


def one_kernel_shifted(kernels):
    return np.concatenate([kernels[:5], np.roll(kernels[5:6], 1, axis=2), kernels[6:]])


def padding_at_the_start(graph, weights):
    """As TensorFlow pads an even kernel or a stride: one pixel off."""
    for node in nodes(graph, "Conv"):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attributes["group"] > 1:
            pad = attributes["kernel_shape"][0] // 2
            set_attributes(node, auto_pad="NOTSET", pads=[pad + 1, pad + 1, pad - 1, pad - 1])


def read_instead(graph, name, other):
    for node in graph.graph.node:
        node.input[:] = [other if found == name else found for found in node.input]


def activation_after_batch_norm(graph, weights):
    """In one unit: Transpose and BatchNormalization take what the activation took, and it takes what they gave."""
    norm = nodes(graph, "BatchNormalization")[1]
    producer = {output: node for node in graph.graph.node for output in node.output}
    turn = producer[norm.input[0]]
    activation = producer[turn.input[0]]
    turn.input[0], activated = activation.input[0], activation.output[0]
    normalised = norm.output[0]
    read_instead(graph, normalised, "activated")
    activation.input[0] = "channels_last"
    back = helper.make_node("Transpose", [normalised], ["channels_last"], perm=[0, 2, 3, 1])
    forth = helper.make_node("Transpose", [activated], ["activated"], perm=[0, 3, 1, 2])
    moved = [back, activation.__deepcopy__(), forth]
    graph.graph.node.remove(activation)
    position = list(graph.graph.node).index(norm) + 1
    rest = [node.__deepcopy__() for node in graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend([*rest[:position], *moved, *rest[position:]])


def residual_dropped(graph, weights):
    add = nodes(graph, "Add")[0]
    read_instead(graph, add.output[0], add.input[0])


def mean_and_variance_swapped(graph, weights):
    mean, variance = "stem.2.running_mean", "stem.2.running_var"
    weights[mean], weights[variance] = weights[variance], np.abs(weights[mean])


def half_precision_weights(graph, weights):
    for key, array in weights.items():
        if array.dtype == np.float32:
            weights[key] = array.astype(np.float16).astype(np.float32)


def last_block_skipped(graph, weights):
    """What reads the last block's output reads what that block was given: the other side of its residual."""
    pooling, _ = nodes(graph, "ReduceMean")  # of rows, then of what is left
    pooling.input[0] = nodes(graph, "Add")[-1].input[1]


def neighbouring_checkpoint(graph, weights):
    """As if another seed's, or another epoch's, file had been read."""
    rng = np.random.default_rng(99)
    for key, array in weights.items():
        if array.dtype == np.float32 and array.ndim > 1:
            weights[key] = rng.permutation(array.reshape(-1)).reshape(array.shape)


def nothing(graph, weights):
    """For faults that are neither in the graph nor in the weights."""


# --- of a Mixer: in its definition


def gelu(another):
    """`another` takes x, and the right one."""
    right = nn.gelu
    return lambda: mock.patch.object(nn, "gelu", lambda x, approximate: another(x, right))


def block(**change):
    """A block with the first of its residuals left out, or nothing but its residual."""

    class Block(mlp_mixer.MixerBlock):
        residual = change.get("residual", True)
        skipped = change.get("skipped", "")

        @nn.compact
        def __call__(self, x):
            a = self.architecture
            y = jnp.swapaxes(nn.LayerNorm(epsilon=a.layer_norm_epsilon)(x), 1, 2)
            y = jnp.swapaxes(mlp_mixer.MlpBlock(a.tokens_mlp_dim, a.activation, name="token_mixing")(y), 1, 2)
            between = x + y if self.residual else y
            y = nn.LayerNorm(epsilon=a.layer_norm_epsilon)(between)
            y = between + mlp_mixer.MlpBlock(a.channels_mlp_dim, a.activation, name="channel_mixing")(y)
            return x if self.name == self.skipped else y

    return lambda: mock.patch.object(mlp_mixer, "MixerBlock", Block)


def inputs(change):
    """What the model is given, changed."""
    right = mlp_mixer.predict_function

    def predict_function(model):
        predict = right(model)
        return lambda parameters, images: predict(parameters, change(images))

    return lambda: mock.patch.object(mlp_mixer, "predict_function", predict_function)


def padded_by_one(images):
    """Each image a pixel further down and to the right, as by padding at the wrong side."""
    return jnp.pad(images, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :-1, :-1]


@dataclass(frozen=True)
class Fault:
    """One thing done wrong. plant: changes graph and weights. The rest is for what is in neither."""

    name: str
    plant: Callable[[Any, dict[str, np.ndarray]], None] = nothing
    patches: Callable[[], Any] = nullcontext
    architecture: Callable[[Any], Mapping[str, float]] = lambda architecture: {}
    ignores_training: bool = False


NONE = Fault("none")

_OF_CONVMIXER = [
    Fault("height_and_width_swapped", height_and_width_swapped),
    Fault("channels_reversed", weight("stem.0.weight", lambda kernels: kernels[:, ::-1])),
    Fault("epsilon_doubled", attribute("BatchNormalization", epsilon=2e-5)),
    Fault("another_epsilon", attribute("BatchNormalization", epsilon=1e-6)),
    Fault("another_momentum", attribute("BatchNormalization", momentum=0.99)),
    Fault("depthwise_kernels_shifted", weight("blocks.1.0.fn.0.weight", lambda kernels: np.roll(kernels, 1, axis=3))),
    Fault("one_depthwise_kernel_shifted", weight("blocks.1.0.fn.0.weight", one_kernel_shifted)),
    Fault("depthwise_kernels_transposed", weight("blocks.0.0.fn.0.weight", lambda kernels: kernels.swapaxes(2, 3))),
    Fault("padding_at_the_start", padding_at_the_start),
    Fault("pointwise_kernel_transposed", weight("blocks.0.1.weight", lambda kernel: kernel.swapaxes(0, 1))),
    Fault("activation_after_batch_norm", activation_after_batch_norm),
    Fault("residual_dropped", residual_dropped),
    Fault("last_block_skipped", last_block_skipped),
    Fault("two_blocks_swapped", swapped("blocks.0.", "blocks.1.")),
    Fault("mean_and_variance_swapped", mean_and_variance_swapped),
    Fault("one_head_row_swapped", weight("head.bias", lambda bias: bias[[1, 0, *range(2, len(bias))]])),
    Fault("half_precision_weights", half_precision_weights),
    Fault("neighbouring_checkpoint", neighbouring_checkpoint),
    Fault("training_flag_ignored", ignores_training=True),
]
FAULTS = {
    "gelu": [
        *_OF_CONVMIXER,
        Fault("tanh_for_erf", attribute("Gelu", approximate="tanh")),
        Fault("relu_for_gelu", operator("Gelu", "Relu")),
        Fault("relu_for_gelu_once", operator("Gelu", "Relu", slice(-1, None))),
    ],
    "relu": [*_OF_CONVMIXER, Fault("gelu_for_relu", operator("Relu", "Gelu"))],
    "mixer": [
        Fault("height_and_width_swapped", patches=inputs(lambda images: images.swapaxes(1, 2))),
        Fault("channels_reversed", patches=inputs(lambda images: images[..., ::-1])),
        Fault("padding_at_the_start", patches=inputs(padded_by_one)),
        Fault("epsilon_doubled", architecture=lambda a: {"layer_norm_epsilon": 2 * a.layer_norm_epsilon}),
        Fault("another_epsilon", architecture=lambda a: {"layer_norm_epsilon": 1e-5}),
        Fault("gelu_by_erf", patches=gelu(lambda x, right: right(x, approximate=False))),
        Fault("relu_in_place_of_gelu", patches=gelu(lambda x, _: nn.relu(x))),
        Fault("residual_dropped", patches=block(residual=False)),
        Fault("one_block_skipped", patches=block(skipped="MixerBlock_1")),
        Fault("two_blocks_swapped", swapped("MixerBlock_0/", "MixerBlock_1/")),
        Fault("half_precision_weights", half_precision_weights),
        Fault("neighbouring_checkpoint", neighbouring_checkpoint),
    ],
}


def faults_of(variant: Variant, head: str = "classification") -> list[Fault]:
    """The faults that can be made with this variant and head."""
    faults = FAULTS["mixer" if variant.family == "mixer" else variant.architecture.activation]
    return [fault for fault in faults if head == "classification" or fault.name != "one_head_row_swapped"]
