"""ONNX to TensorFlow: onnx-tf made to run, numbers and layout, against upstream's figures, PyTorch and ONNX Runtime."""

import copy
import gc
import importlib.util
import sys

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tiny
import torch
from onnx import TensorProto, helper
from tensorflow.python.eager import context

from utils.errors import ConversionError
from utils.export import onnx_to_tf, saved_model
from utils.export.onnx_to_tf import TRAINING, export_tensorflow, import_onnx_tf
from utils.families.convmixer import source as convmixer
from utils.parity.comparison import compare_outputs
from utils.parity.report import Report

GELU, RELU = tiny.NAMES
TOLERANCE = 1e-5  # another framework: every convolution and mean sums in another order

# --- onnx-tf itself


def handlers(opset=20):
    backend, _ = onnx_to_tf._with_handlers()
    return backend, backend.TensorflowBackend._get_handlers([helper.make_opsetid("", opset)])[""]


def handle(op_type, inputs, opset=20, **attributes):
    backend, found = handlers(opset)
    node = backend.OnnxNode(helper.make_node(op_type, list(inputs), ["y"], **attributes))
    tensors = {name: tf.constant(array) for name, array in inputs.items()} | {TRAINING: False}
    return found[op_type].handle(node, tensor_dict=tensors, strict=True)[0].numpy()


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def test_it_runs_without_its_outdated_dependencies_and_leaves_no_placeholder():
    import_onnx_tf()
    assert not {"tensorflow_addons", "tensorflow_probability"} & set(sys.modules)
    with pytest.raises(ConversionError, match=r"needs tensorflow_addons"):
        handle("Hardmax", {"x": np.ones((2, 3), np.float32)}, opset=13, axis=-1)


def test_additional_handlers_survive_the_garbage_collector_and_are_of_the_exported_graph_s_opset():
    handlers()
    gc.collect()
    _, found = handlers()
    ours = [found[op] for op in ("Gelu", "Conv", "Flatten", "BatchNormalization")]
    assert {handler.__module__ for handler in ours} == {"utils.export.onnx_to_tf"}
    versions = [handler.SINCE_VERSION for handler in (*ours, found["ReduceMean"], found["Constant"])]
    assert versions == [20, 11, 13, 15, 18, 19]


def test_absent_onnx_tf_is_a_conversion_error_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(ConversionError, match=r"pip install --no-deps -r requirements-onnx-tf\.txt"):
        import_onnx_tf.__wrapped__()


@pytest.mark.parametrize("attributes", [{}, {"approximate": "tanh"}])
def test_gelu_is_exact_unless_the_graph_asks_for_the_approximation(attributes):
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    expected = torch.nn.functional.gelu(torch.tensor(x, dtype=torch.float64), **attributes).numpy()
    np.testing.assert_allclose(handle("Gelu", {"x": x}, **attributes), expected, atol=1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_is_over_the_axes_that_come_as_an_input(keepdims):
    (x,) = normal((2, 3, 4, 5))
    found = handle("ReduceMean", {"x": x, "axes": np.array([1, 2])}, keepdims=keepdims)
    np.testing.assert_allclose(found, x.mean((1, 2), keepdims=bool(keepdims)), atol=1e-6)


@pytest.mark.parametrize(
    ("image", "attributes"),
    [
        ((7, 9), {}),  # windows side by side are a matrix product; a row is left over
        ((8, 11), {"bias": True}),
        ((8, 9), {"bias": True, "strides": [1, 1]}),
        ((8, 9), {"pads": [1, 0, 1, 0]}),
        ((8, 9), {"group": 3, "strides": [2, 2]}),  # TensorFlow's own depthwise kernel asks for equal strides
        ((7, 8), {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_convolution_is_onnx_runtime_s(image, attributes):
    attributes = {"kernel_shape": [2, 3], "strides": [2, 3]} | attributes
    x, kernel, bias = normal((2, 3, *image), (6, 3 // attributes.get("group", 1), 2, 3), (6,))
    inputs = {"x": x, "kernel": kernel} | ({"bias": bias} if attributes.pop("bias", False) else {})
    node = helper.make_node("Conv", list(inputs), ["y"], **attributes)
    *given, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (*inputs, "y"))
    graph = helper.make_graph([node], "g", given, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], inputs)
    np.testing.assert_allclose(handle("Conv", inputs, **attributes), expected, atol=1e-5)


# --- numbers


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


@pytest.mark.parametrize(("name", "head"), [(GELU, "classification"), (RELU, "classification"), (GELU, "fe")])
def test_reloaded_outputs_equal_the_upstream_definition(reloaded, name, head):
    found, expected = saved_model.as_function(reloaded(name, head))(golden_inputs(name)), tiny.expected(name)
    assert found.dtype == np.float32
    assert tiny.relative_error(found, expected[tiny.OUTPUTS[head]]) <= TOLERANCE


@pytest.mark.parametrize("shape", [(7, 48, 48), (3, 36, 60), (1, 53, 41), (2, 12, 12)])
def test_any_batch_height_and_width_equal_pytorch(reloaded, shape):
    batch = {"noise": np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)}
    source, found = convmixer.as_nhwc(tiny.source(GELU)), saved_model.as_function(reloaded(GELU))
    Report(compare_outputs(source, found, batch, "logits")).require()


def test_features_of_many_patches_err_as_little_as_pytorch_s(reloaded):
    """The mean of 16,384 terms, each added to all before it, erred 38 times as much as PyTorch's."""
    inputs = {"noise": np.random.default_rng(0).standard_normal((1, 512, 512, 3), dtype=np.float32)}
    source = tiny.source(GELU, "fe")
    double = convmixer.as_nhwc(copy.deepcopy(source).double())
    candidate, own = saved_model.as_function(reloaded(GELU, "fe")), convmixer.as_nhwc(source)
    rows = compare_outputs(lambda x: double(x.astype(np.float64)), candidate, inputs, "features", source=own)
    Report(rows).require()


def test_fixed_size_takes_any_batch_and_refuses_another_size(reloaded):
    predict = saved_model.as_function(reloaded(GELU, image_size=48))
    assert predict(np.zeros((5, 48, 48, 3), np.float32)).shape == (5, 10)
    with pytest.raises(ValueError, match="48"):
        predict(np.zeros((1, 40, 48, 3), np.float32))


# --- layout: what TensorFlow really runs


def executed(call):
    """The graphs that `call` is the first to run, as GraphDef: [(before Grappler, after)]."""
    context.context().enable_run_metadata()
    try:
        context.context().export_run_metadata()  # TensorFlow kept those of functions that ran before, too
        call()
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_run_metadata()
    return [(graph.pre_optimization_graph, graph.post_optimization_graph) for graph in graphs]


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
def test_no_transpose_but_that_of_the_image_is_left_in_the_executed_graph(saved, way):
    model = saved_model.load_model(saved(GELU))
    before, after = transposes(WAYS[way](model, tf.constant(golden_inputs(GELU))))
    assert before > 1 >= after  # which cuts it into patches; of activations there would be one in each block


def test_every_operation_is_one_that_tfjs_runs(reloaded):
    """Its converter takes EnsureShape, and its runtime stops there."""
    graph = reloaded(GELU).signatures["serving_default"].graph.as_graph_def()
    assert count(graph, "DepthwiseConv2dNative") > 0
    assert count(graph, "EnsureShape") == 0


@pytest.mark.parametrize(("name", "entry", "image_size"), [(GELU, "Erf", None), (RELU, "Relu", 48)])
def test_biases_and_activations_follow_convolutions_so_that_they_can_be_fused_into_them(saved, name, entry, image_size):
    """Grappler fuses a convolution or a product with a BiasAdd only, and with an activation that follows at once.

    Which ones it fuses is its own choice, by processor and settings: what is looked at is what we write.
    """
    model = saved_model.load_model(saved(name, "classification", image_size))
    images = tf.constant(golden_inputs(name))
    ((traced, _),) = [pair for pair in executed(lambda: model(images)) if count(pair[0], "DepthwiseConv2dNative")]
    found = []
    for function in traced.library.function:
        nodes = {node.name: node for node in function.node_def}
        kinds = {node.op for node in nodes.values()}
        if "Rsqrt" not in kinds:  # not a unit of convolution, activation and BatchNorm, one for each kind
            continue
        (first,) = [node for node in nodes.values() if node.op == entry]
        if entry == "Erf":
            first = nodes[first.input[0].split(":")[0]]  # the product with the root of a half
        before = nodes[first.input[0].split(":")[0]]
        found.append((before.op, kinds & {"Conv2D", "DepthwiseConv2dNative", "MatMul"}))
        if "MatMul" in kinds:  # after a reshape, GELU stays five passes over the activations and ReLU one
            assert nodes[before.input[0].split(":")[0]].op == "MatMul"
    # The stem's, and one that all pointwise convolutions share, are products.
    assert sorted(found, key=str) == [("BiasAdd", {"DepthwiseConv2dNative"}), *2 * [("BiasAdd", {"MatMul"})]]


@pytest.mark.parametrize("name", [GELU, RELU])
def test_an_empty_batch_leaves_the_statistics_as_they_are(name):
    exported = tiny.exported(name)
    before = {key: variable.numpy() for key, variable in exported.variables.items()}
    assert exported.call(tf.zeros([0, 48, 48, 3]), True).shape[0] == 0
    for key, variable in exported.variables.items():
        np.testing.assert_array_equal(variable.numpy(), before[key], err_msg=key)


# --- errors


def test_weight_or_operator_that_does_not_fit_is_named():
    graph, weights = tiny.graph(GELU), tiny.weights(GELU)
    del weights["blocks.1.3.running_var"]
    with pytest.raises(ConversionError, match=r"blocks\.1\.3\.running_var is missing"):
        export_tensorflow(graph, weights, None, "logits")
    next(node for node in graph.graph.node if node.op_type == "Add").op_type = "GridSample"
    with pytest.raises(ConversionError, match=r"no handler for the ONNX operators \['GridSample'\]"):
        export_tensorflow(graph, tiny.weights(GELU), None, "logits")


def test_exporting_neither_keeps_nor_changes_the_caller_s_arrays():
    weights = tiny.weights(GELU)
    before = copy.deepcopy(weights)
    variables = export_tensorflow(tiny.graph(GELU), weights, None, "logits").variables
    for variable in variables.values():
        variable.assign(tf.zeros_like(variable))
    for key, array in weights.items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)
