"""Faults that a converter can make, planted in an export on its way: none may pass the gate.

Each function changes an ONNX graph and the weights in place (a Mixer has no such graph: None). `FAULTS` lists, by
family, what the yardstick and the tests plant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from onnx import helper

from utils.models import mlp_mixer
from utils.models.variants import Variant


def nodes(graph, op_type):
    return [node for node in graph.graph.node if node.op_type == op_type]


def set_attribute(node, name, value):
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def replace_operator(node, op_type):
    node.op_type = op_type
    del node.attribute[:]


# --- of a ConvMixer: in the graph and the weights


def height_and_width_swapped(graph, weights):
    (first,) = [node for node in nodes(graph, "Transpose") if node.input[0] == "inputs"]
    set_attribute(first, "perm", [0, 3, 2, 1])  # what transpose(1, 3) does, where permute(0, 3, 1, 2) is right


def channels_reversed(graph, weights):
    weights["stem.0.weight"] = weights["stem.0.weight"][:, ::-1].copy()


def tanh_for_erf(graph, weights):
    for node in nodes(graph, "Gelu"):
        set_attribute(node, "approximate", "tanh")


def relu_for_gelu(graph, weights):
    for node in nodes(graph, "Gelu"):
        replace_operator(node, "Relu")


def relu_for_gelu_once(graph, weights):
    replace_operator(nodes(graph, "Gelu")[-1], "Relu")


def gelu_for_relu(graph, weights):
    for node in nodes(graph, "Relu"):
        replace_operator(node, "Gelu")


def another_epsilon(graph, weights):
    for node in nodes(graph, "BatchNormalization"):
        set_attribute(node, "epsilon", 1e-6)


def depthwise_kernels_shifted(graph, weights):
    weights["blocks.1.0.fn.0.weight"] = np.roll(weights["blocks.1.0.fn.0.weight"], 1, axis=3)


def one_depthwise_kernel_shifted(graph, weights):
    weights["blocks.1.0.fn.0.weight"][5] = np.roll(weights["blocks.1.0.fn.0.weight"][5], 1, axis=1)


def depthwise_kernels_transposed(graph, weights):
    weights["blocks.0.0.fn.0.weight"] = weights["blocks.0.0.fn.0.weight"].swapaxes(2, 3).copy()


def padding_at_the_start(graph, weights):
    """As TensorFlow pads an even kernel or a stride: one pixel off."""
    for node in nodes(graph, "Conv"):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if attributes["group"] > 1:
            pad = attributes["kernel_shape"][0] // 2
            kept = [a for a in node.attribute if a.name not in ("auto_pad", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("pads", [pad + 1, pad + 1, pad - 1, pad - 1])])


def pointwise_kernel_transposed(graph, weights):
    weights["blocks.0.1.weight"] = weights["blocks.0.1.weight"].swapaxes(0, 1).copy()


def activation_after_batch_norm(graph, weights):
    """In one unit: Transpose and BatchNormalization take what the activation took, and it takes what they gave."""
    norm = nodes(graph, "BatchNormalization")[1]
    producer = {output: node for node in graph.graph.node for output in node.output}
    turn = producer[norm.input[0]]
    activation = producer[turn.input[0]]
    turn.input[0], activated = activation.input[0], activation.output[0]
    normalised = norm.output[0]
    for node in graph.graph.node:
        for position, name in enumerate(node.input):
            if name == normalised:
                node.input[position] = "activated"
    activation.input[0], activation.output[0] = "channels_last", activated
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
    for node in graph.graph.node:
        for position, name in enumerate(node.input):
            if name == add.output[0]:
                node.input[position] = add.input[0]


def two_blocks_swapped(graph, weights):
    for key in [key for key in weights if key.startswith("blocks.0.")]:
        other = key.replace("blocks.0.", "blocks.1.")
        weights[key], weights[other] = weights[other], weights[key]


def mean_and_variance_swapped(graph, weights):
    mean, variance = "stem.2.running_mean", "stem.2.running_var"
    weights[mean], weights[variance] = weights[variance], np.abs(weights[mean])


def one_head_row_swapped(graph, weights):
    weights["head.bias"][[0, 1]] = weights["head.bias"][[1, 0]]


def half_precision_weights(graph, weights):
    for key, array in weights.items():
        if array.dtype == np.float32:
            weights[key] = array.astype(np.float16).astype(np.float32)


def epsilon_doubled(graph, weights):
    for node in nodes(graph, "BatchNormalization"):
        set_attribute(node, "epsilon", 2e-5)


def another_momentum(graph, weights):
    for node in nodes(graph, "BatchNormalization"):
        set_attribute(node, "momentum", 0.99)


def last_block_skipped(graph, weights):
    """What reads the last block's output reads what that block was given: the other side of its residual."""
    (pooling,) = nodes(graph, "ReduceMean")
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


@contextmanager
def patched(target: object, name: str, value: object) -> Iterator[None]:
    with mock.patch.object(target, name, value):
        yield


def gelu_by_erf():
    gelu = nn.gelu
    return patched(nn, "gelu", lambda x, approximate: gelu(x, approximate=False))


def relu_in_place_of_gelu():
    return patched(nn, "gelu", lambda x, approximate: nn.relu(x))


class _Block(mlp_mixer.MixerBlock):
    """A block with one of its two residuals left out, or nothing but its residual."""

    residual = True
    skipped = ""

    @nn.compact
    def __call__(self, x):
        a = self.architecture
        y = jnp.swapaxes(nn.LayerNorm(epsilon=a.layer_norm_epsilon)(x), 1, 2)
        y = jnp.swapaxes(mlp_mixer.MlpBlock(a.tokens_mlp_dim, name="token_mixing")(y), 1, 2)
        between = x + y if self.residual else y
        y = nn.LayerNorm(epsilon=a.layer_norm_epsilon)(between)
        y = between + mlp_mixer.MlpBlock(a.channels_mlp_dim, name="channel_mixing")(y)
        return x if self.name == self.skipped else y


class _WithoutResidual(_Block):
    residual = False


class _Skipped(_Block):
    skipped = "MixerBlock_1"


def _padded_by_one(inputs):
    """Each image a pixel further down and to the right, as by padding at the wrong side."""
    return jnp.pad(inputs, ((0, 0), (1, 0), (1, 0), (0, 0)))[:, :-1, :-1]


def two_mixer_blocks_swapped(graph, weights):
    for key in [key for key in weights if key.startswith("MixerBlock_0/")]:
        other = key.replace("MixerBlock_0/", "MixerBlock_1/")
        weights[key], weights[other] = weights[other], weights[key]


@dataclass(frozen=True)
class Fault:
    """One thing done wrong. plant: changes graph and weights. The rest is for what is in neither."""

    name: str
    plant: Callable[[Any, dict[str, np.ndarray]], None] = nothing
    patches: Callable[[], Any] = nullcontext
    inputs: Callable[[Any], Any] = lambda inputs: inputs
    architecture: Callable[[Any], Mapping[str, float]] = lambda architecture: {}
    ignores_training: bool = False


_EITHER = (
    height_and_width_swapped,
    channels_reversed,
    epsilon_doubled,
    another_epsilon,
    another_momentum,
    depthwise_kernels_shifted,
    one_depthwise_kernel_shifted,
    depthwise_kernels_transposed,
    padding_at_the_start,
    pointwise_kernel_transposed,
    activation_after_batch_norm,
    residual_dropped,
    last_block_skipped,
    two_blocks_swapped,
    mean_and_variance_swapped,
    one_head_row_swapped,
    half_precision_weights,
    neighbouring_checkpoint,
)
_OF_CONVMIXER = [Fault(plant.__name__, plant) for plant in _EITHER]
_OF_CONVMIXER.append(Fault("training_flag_ignored", ignores_training=True))
FAULTS = {
    "gelu": [*_OF_CONVMIXER, *(Fault(f.__name__, f) for f in (tanh_for_erf, relu_for_gelu, relu_for_gelu_once))],
    "relu": [*_OF_CONVMIXER, Fault("gelu_for_relu", gelu_for_relu)],
    "mixer": [
        Fault("height_and_width_swapped", inputs=lambda inputs: inputs.swapaxes(1, 2)),
        Fault("channels_reversed", inputs=lambda inputs: inputs[..., ::-1]),
        Fault("padding_at_the_start", inputs=_padded_by_one),
        Fault("epsilon_doubled", architecture=lambda a: {"layer_norm_epsilon": 2 * a.layer_norm_epsilon}),
        Fault("another_epsilon", architecture=lambda a: {"layer_norm_epsilon": 1e-5}),
        Fault("gelu_by_erf", patches=gelu_by_erf),
        Fault("relu_in_place_of_gelu", patches=relu_in_place_of_gelu),
        Fault("residual_dropped", patches=lambda: patched(mlp_mixer, "MixerBlock", _WithoutResidual)),
        Fault("one_block_skipped", patches=lambda: patched(mlp_mixer, "MixerBlock", _Skipped)),
        Fault("two_blocks_swapped", two_mixer_blocks_swapped),
        Fault("half_precision_weights", half_precision_weights),
        Fault("neighbouring_checkpoint", neighbouring_checkpoint),
    ],
}


def faults_of(variant: Variant, head: str = "classification") -> list[Fault]:
    """The faults that can be made with this variant and head."""
    faults = FAULTS["mixer" if variant.family == "mixer" else variant.architecture.activation]
    return [fault for fault in faults if head == "classification" or fault.name != "one_head_row_swapped"]
