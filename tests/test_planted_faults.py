"""The parity gate on real models: each fault that a converter can make, planted in the export, must fail it.

The reference is the PyTorch source on the golden weights; the fault is put into the ONNX graph, the weights or a
handler, and TensorFlow runs what comes of it. The same way without a fault passes.
"""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from onnx import helper

from utils import convmixer
from utils.errors import ParityError
from utils.onnx_tf_export import export_tensorflow
from utils.parity import Report, compare_outputs, standard_inputs

GELU, RELU = tiny.NAMES
SIZE = 48


@pytest.fixture(scope="module")
def inputs():
    return standard_inputs(SIZE, SIZE, seed=0)


@pytest.fixture(scope="module")
def reference(inputs):
    """Outputs of the sources by (name, head): of each input, computed once."""
    kept = {}

    def get(name, head="classification"):
        if (name, head) not in kept:
            call = convmixer.as_nhwc(tiny.source(name, head))
            kept[name, head] = {batch.tobytes(): call(batch) for batch in inputs.values()}
        return lambda batch: kept[name, head][batch.tobytes()]

    return get


def candidate(graph, weights, output="logits", training=False):
    call = export_tensorflow(graph, weights, SIZE, output).call
    spec = tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)
    function = tf.function(lambda images: call(images, training), input_signature=[spec], autograph=False)
    return lambda batch: function(tf.constant(batch)).numpy()


def nodes(graph, op_type):
    return [node for node in graph.graph.node if node.op_type == op_type]


def set_attribute(node, name, value):
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def replace_operator(node, op_type):
    node.op_type = op_type
    del node.attribute[:]


# --- faults: each changes the graph and the weights in place


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


ON_GELU = [
    height_and_width_swapped,
    channels_reversed,
    tanh_for_erf,
    relu_for_gelu,
    relu_for_gelu_once,
    another_epsilon,
    depthwise_kernels_shifted,
    one_depthwise_kernel_shifted,
    depthwise_kernels_transposed,
    padding_at_the_start,
    pointwise_kernel_transposed,
    activation_after_batch_norm,
    residual_dropped,
    two_blocks_swapped,
    mean_and_variance_swapped,
    one_head_row_swapped,
    half_precision_weights,
]
# The second size and activation: what depends on either.
ON_RELU = [height_and_width_swapped, gelu_for_relu, another_epsilon, one_depthwise_kernel_shifted, residual_dropped]


def compared(reference, inputs, name, plant=None, head="classification", **settings):
    graph, weights, output = tiny.graph(name, head), tiny.weights(name), tiny.OUTPUTS[head]
    if plant:
        plant(graph, weights)
    found = candidate(graph, weights, output, **settings)
    return Report(compare_outputs(reference(name, head), found, inputs, output))


@pytest.mark.parametrize("head", tiny.OUTPUTS)
@pytest.mark.parametrize("name", tiny.NAMES)
def test_without_a_fault_parity_passes_on_every_input(reference, inputs, name, head):
    report = compared(reference, inputs, name, head=head)
    report.require()
    assert len(report.rows) == len(inputs)


@pytest.mark.parametrize(
    ("name", "plant"),
    [(GELU, fault) for fault in ON_GELU] + [(RELU, fault) for fault in ON_RELU],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_fault_fails_parity(reference, inputs, name, plant):
    report = compared(reference, inputs, name, plant)
    assert not report.passed, report.table()
    # By the size of the error: not because something could not be compared, and well clear of rounding.
    assert all(np.isfinite(row.figure) for row in report.rows)
    assert max(row.severity for row in report.rows) > 2, report.table()
    with pytest.raises(ParityError, match="parity failed"):
        report.require()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (GELU, "stem.0.weight"),
        (GELU, "stem.2.running_var"),
        (GELU, "blocks.1.1.weight"),
        (GELU, "blocks.2.3.running_mean"),
        (GELU, "head.weight"),
        (RELU, "blocks.1.0.fn.2.weight"),
    ],
)
def test_one_number_changed_by_one_per_cent_fails_parity(reference, inputs, name, key):
    def plant(graph, weights):
        # The largest of its array. Outputs cannot show every number: some feed units that no input switches on, and
        # some of 25 in a depthwise kernel are lost in the pooling. That the variables are the checkpoint's, bit by
        # bit, is a test of the exporter.
        flat = weights[key].reshape(-1)
        flat[np.argmax(np.abs(flat))] *= 1.01

    report = compared(reference, inputs, name, plant)
    assert not report.passed, report.table()


@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize("key", ["blocks.1.0.fn.0.weight", "blocks.1.1.weight", "blocks.1.3.bias"])
def test_one_weight_array_changed_by_one_per_cent_fails_parity(reference, inputs, name, key):
    def plant(graph, weights):
        weights[key] *= np.float32(1.01)

    assert not compared(reference, inputs, name, plant).passed


def test_statistics_of_the_batch_in_place_of_the_moving_ones_fail_parity(reference, inputs):
    assert not compared(reference, inputs, GELU, training=True).passed


def test_handler_with_another_gelu_fails_parity(reference, inputs, monkeypatch):
    # x * sigmoid(1.702 x), which some frameworks call GELU too
    monkeypatch.setattr(tf.math, "erf", lambda x: tf.tanh(0.851 * np.sqrt(2) * x))
    assert not compared(reference, inputs, GELU).passed


def test_features_in_place_of_logits_fail_parity(reference, inputs):
    features = candidate(tiny.graph(GELU, "fe"), tiny.weights(GELU), "features")
    report = Report(compare_outputs(reference(GELU), features, inputs, "logits"))
    assert not any(row.passed for row in report.rows)
    with pytest.raises(ParityError, match=r"shape \[8, 32\], expected \[8, 10\]"):
        report.require()


def test_an_image_equal_to_its_transpose_cannot_show_that_height_and_width_are_swapped(inputs):
    """Why the standard inputs are what they are: such a fault once went unseen for years."""
    graph, weights = tiny.graph(GELU), tiny.weights(GELU)
    height_and_width_swapped(graph, weights)
    source, swapped = convmixer.as_nhwc(tiny.source(GELU)), candidate(graph, weights)
    symmetric = {"symmetric": inputs["noise"] + inputs["noise"].swapaxes(1, 2)}
    assert Report(compare_outputs(source, swapped, symmetric, "logits")).passed
    each = compare_outputs(source, swapped, inputs, "logits")
    assert not any(row.passed for row in each)
