"""ONNX to TensorFlow: numbers, gradients, training and layout, against upstream's figures and PyTorch."""

import copy

import numpy as np
import pytest
import tensorflow as tf
import tiny
import torch
from graphs import executed

from utils.errors import ConversionError
from utils.export import saved_model, torch_to_onnx
from utils.export.onnx_to_tf import export_tensorflow
from utils.families.convmixer import source as convmixer
from utils.parity.comparison import compare_outputs
from utils.parity.report import Report
from utils.smaller.lite import operators

every_model = pytest.mark.parametrize("name", tiny.NAMES)
TOLERANCE = 1e-5  # another framework: every convolution and mean sums in another order


@pytest.fixture(scope="module")
def reloaded(saved):
    """Loaded models by (name, head, image_size), shared by tests that leave their variables alone."""
    kept = {}

    def get(name, head="classification", image_size=None):
        key = name, head, image_size
        if key not in kept:
            kept[key] = saved_model.load_model(saved(*key))
        return kept[key]

    return get


def golden_inputs(name):
    return tiny.expected(name)["inputs"].copy()


# --- numbers


@every_model
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_reloaded_outputs_equal_the_upstream_definition(reloaded, name, head, output):
    found = saved_model.as_function(reloaded(name, head))(golden_inputs(name))
    assert found.shape == tiny.expected(name)[output].shape
    assert found.dtype == np.float32
    assert tiny.relative_error(found, tiny.expected(name)[output]) <= TOLERANCE


@every_model
@pytest.mark.parametrize("shape", [(7, 48, 48), (3, 36, 60), (1, 53, 41), (2, 12, 12)])
def test_any_batch_height_and_width_equal_pytorch(reloaded, name, shape):
    batch = {"noise": np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)}
    source, found = convmixer.as_nhwc(tiny.source(name)), saved_model.as_function(reloaded(name))
    Report(compare_outputs(source, found, batch, "logits")).require()


@pytest.mark.parametrize("name", tiny.NAMES)
def test_features_of_many_patches_err_as_little_as_pytorch_s(reloaded, name):
    """The mean of 16,384 terms, each added to all before it, erred 38 times as much as PyTorch's."""
    inputs = {"noise": np.random.default_rng(0).standard_normal((1, 512, 512, 3), dtype=np.float32)}
    source = tiny.source(name, "fe")
    double = convmixer.as_nhwc(copy.deepcopy(source).double())
    candidate, own = saved_model.as_function(reloaded(name, "fe")), convmixer.as_nhwc(source)
    rows = compare_outputs(lambda x: double(x.astype(np.float64)), candidate, inputs, "features", source=own)
    Report(rows).require()


def test_fixed_size_takes_any_batch_and_refuses_another_size(reloaded):
    predict = saved_model.as_function(reloaded("convmixer_tiny", image_size=48))
    assert predict(np.zeros((5, 48, 48, 3), np.float32)).shape == (5, 10)
    with pytest.raises(ValueError, match="48"):
        predict(np.zeros((1, 40, 48, 3), np.float32))


# --- variables


# --- gradients and training


# --- layout: what TensorFlow really runs


def count(graph, op):
    functions = [node for function in graph.library.function for node in function.node_def]
    return sum(node.op == op for node in [*graph.node, *functions])


def transposes(call):
    """Transposes of any rank, before and after Grappler, in the graphs in which there is a convolution."""
    graphs = [pair for pair in executed(call) if count(pair[0], "DepthwiseConv2dNative")]
    assert graphs, "no graph with a convolution was run"
    return sum(count(before, "Transpose") for before, _ in graphs), sum(count(g, "Transpose") for _, g in graphs)


def step(model, images, training):
    """A compiled training step, as a function of nothing."""

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=training) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    return gradients


WAYS = {
    "inference": lambda model, images: lambda: model(images),
    "signature": lambda model, images: lambda: model.signatures["serving_default"](inputs=images),
    "training mode": lambda model, images: lambda: model(images, training=True),
    "step in inference mode": lambda model, images: step(model, images, False),
    "step in training mode": lambda model, images: step(model, images, True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("image_size", [None, tiny.slow(48)])
@pytest.mark.parametrize("name", [tiny.NAMES[0], tiny.slow(tiny.NAMES[1])])
def test_no_transpose_but_that_of_the_image_is_left_in_the_executed_graph(saved, name, image_size, way):
    model = saved_model.load_model(saved(name, "classification", image_size))
    _, after = transposes(WAYS[way](model, tf.constant(golden_inputs(name))))
    assert after <= 1  # which cuts it into patches; of activations there would be one in each block


@every_model
def test_every_operation_is_one_that_tfjs_runs(saved, name):
    """Its converter takes EnsureShape, and its runtime stops there."""
    graph = saved_model.load_model(saved(name)).signatures["serving_default"].graph.as_graph_def()
    assert count(graph, "DepthwiseConv2dNative") > 0
    assert count(graph, "EnsureShape") == 0


def test_graph_that_is_channels_first_keeps_transposes_so_the_count_can_fail(monkeypatch):
    """The control: the same path from a model exported as PyTorch has it, activations channels-first."""
    name = "convmixer_tiny_relu"

    class Pooled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            model = tiny.source(name)
            self.stem, self.blocks, self.head = model.stem, model.blocks, model.head

        def forward(self, x):
            return self.head(self.blocks(self.stem(x.permute(0, 3, 1, 2))).mean((2, 3)))

    monkeypatch.setattr(torch_to_onnx, "SPATIAL_LAYERS", {})
    graph = torch_to_onnx.export_onnx(Pooled(), "logits")
    call = export_tensorflow(graph, tiny.weights(name), 48, "logits").call
    function, images = tf.function(lambda x: call(x, False), autograph=False), tf.constant(golden_inputs(name))
    found = []
    _, after = transposes(lambda: found.append(function(images)))
    assert tiny.relative_error(found[0], tiny.expected(name)["logits"]) <= TOLERANCE
    assert after > 1  # how many is the optimiser's choice


def test_biases_of_convolutions_are_such_as_can_be_fused_into_them(saved):
    """Grappler fuses a convolution or a product with a BiasAdd only; the plain addition that onnx-tf writes stays.

    Which ones it fuses is its own choice, by processor and settings: what is looked at is what we write.
    """
    model = saved_model.load_model(saved("convmixer_tiny", "classification", None))
    images = tf.constant(golden_inputs("convmixer_tiny"))
    ((traced, _),) = [pair for pair in executed(lambda: model(images)) if count(pair[0], "DepthwiseConv2dNative")]
    functions = [[node.op for node in function.node_def] for function in traced.library.function]
    units = [ops for ops in functions if "Rsqrt" in ops]  # convolution, GELU and BatchNorm: one for each kind
    kinds = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
    assert sorted(op for ops in units for op in ops if op in kinds) == ["DepthwiseConv2dNative", "MatMul", "MatMul"]
    assert [ops.count("BiasAdd") for ops in units] == [1, 1, 1]
    assert [ops.count("AddV2") for ops in units] == [3, 3, 3]  # GELU's and BatchNorm's two: none is a bias


@pytest.mark.parametrize("image_size", [None, 48])
@pytest.mark.parametrize(("name", "entry"), [("convmixer_tiny", "Erf"), ("convmixer_tiny_relu", "Relu")])
def test_activations_follow_the_biases_at_once_so_that_a_product_can_take_them_in(saved, name, entry, image_size):
    """After a reshape, GELU stays five passes over the activations and ReLU one. What we write is looked at, again."""
    model = saved_model.load_model(saved(name, "classification", image_size))
    images = tf.constant(golden_inputs(name))
    ((traced, _),) = [pair for pair in executed(lambda: model(images)) if count(pair[0], "DepthwiseConv2dNative")]
    found = 0
    for function in traced.library.function:
        nodes = {node.name: node for node in function.node_def}
        if "MatMul" not in {node.op for node in nodes.values()} or "Rsqrt" not in {node.op for node in nodes.values()}:
            continue
        (first,) = [node for node in nodes.values() if node.op == entry]
        if entry == "Erf":
            first = nodes[first.input[0].split(":")[0]]  # the product with the root of a half
        before = nodes[first.input[0].split(":")[0]]
        assert [before.op, nodes[before.input[0].split(":")[0]].op] == ["BiasAdd", "MatMul"]
        found += 1
    assert found == 2  # the stem's, and one that all pointwise convolutions share


@pytest.mark.slow
@every_model
@pytest.mark.parametrize("image_size", [None, 48])
@pytest.mark.parametrize("head", tiny.OUTPUTS)
def test_tflite_converts_the_saved_model_itself_by_its_own_operations_alone(saved, name, head, image_size):
    directory = str(saved(name, head, image_size))
    converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    used = operators(converter.convert())
    assert used.count("GELU") == (7 if name == "convmixer_tiny" else 0)
    assert not [op for op in used if op.startswith(("Flex", "CUSTOM"))]


# --- errors


def without(graph, weights):
    del weights["blocks.1.3.running_var"]


def misshapen(graph, weights):
    weights["head.weight"] = weights["head.weight"].T.copy()


def in_float64(graph, weights):
    weights["head.weight"] = weights["head.weight"].astype(np.float64)


def of_unknown_operator(graph, weights):
    next(node for node in graph.graph.node if node.op_type == "Add").op_type = "GridSample"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without, r"blocks\.1\.3\.running_var \(32,\), which the weights lack"),
        (misshapen, r"head\.weight is float32 \(32, 10\).* reads float32 \(10, 32\)"),
        (in_float64, r"head\.weight is float64 .* reads float32 \(10, 32\)"),
        (of_unknown_operator, r"no handler for the ONNX operators \['GridSample'\]"),
    ],
)
def test_weight_or_operator_that_does_not_fit_is_named(spoil, message):
    graph, weights = tiny.graph("convmixer_tiny"), tiny.weights("convmixer_tiny")
    spoil(graph, weights)
    with pytest.raises(ConversionError, match=message):
        export_tensorflow(graph, weights, None, "logits")


def test_exporting_neither_keeps_nor_changes_the_caller_s_arrays():
    weights = tiny.weights("convmixer_tiny")
    before = copy.deepcopy(weights)
    variables = export_tensorflow(tiny.graph("convmixer_tiny"), weights, None, "logits").variables
    for variable in variables.values():
        variable.assign(tf.zeros_like(variable))
    for key, array in weights.items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)
