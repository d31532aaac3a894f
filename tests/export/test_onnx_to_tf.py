"""ONNX to TensorFlow: numbers, gradients, training and layout, against upstream's figures and PyTorch."""

import copy

import numpy as np
import pytest
import tensorflow as tf
import tiny
import torch
from tensorflow.python.eager import context

from utils.errors import ConversionError
from utils.export import saved_model, torch_to_onnx
from utils.export.onnx_to_tf import export_tensorflow
from utils.models import convmixer
from utils.parity.comparison import (
    Report,
    compare_arrays,
    compare_outputs,
)

every_model = pytest.mark.parametrize("name", tiny.NAMES)
# Each BatchNorm divides by statistics of what the layer before it rounded. The usual mistake, variance over n - 1,
# moves them by more than the latter.
TRAINING_TOLERANCE, STATISTICS_TOLERANCE = 1e-4, 1e-5
TOLERANCE = 1e-5  # another framework: every convolution and mean sums in another order
LEARNING_RATE = 0.1


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


def as_source(arrays, name):
    """Arrays by variable name in the source's axis order."""
    axes = tiny.exported(name).axes
    return {key: np.transpose(a, np.argsort(axes[key])) if key in axes else a for key, a in arrays.items()}


# --- numbers


@every_model
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_reloaded_outputs_equal_the_upstream_definition(reloaded, name, head, output):
    found = saved_model.as_function(reloaded(name, head))(golden_inputs(name))
    assert found.shape == tiny.expected(name)[output].shape
    assert found.dtype == np.float32
    assert tiny.relative_error(found, tiny.expected(name)[output]) <= TOLERANCE


@every_model
@pytest.mark.parametrize("image_size", [None, 0, 48])
def test_input_shape_is_fixed_or_any_as_asked(name, image_size):
    exported = tiny.exported(name, image_size=image_size)
    assert exported.input_shape == ((48, 48, 3) if image_size else (None, None, 3))


@every_model
@pytest.mark.parametrize("shape", [(1, 48, 48), (7, 48, 48), (2, 72, 48), (3, 36, 60), (1, 53, 41), (2, 12, 12)])
def test_any_batch_height_and_width_equal_pytorch(reloaded, name, shape):
    batch = {"noise": np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)}
    source, found = convmixer.as_nhwc(tiny.source(name)), saved_model.as_function(reloaded(name))
    Report(compare_outputs(source, found, batch, "logits")).require()


def test_fixed_size_takes_any_batch_and_refuses_another_size(reloaded):
    predict = saved_model.as_function(reloaded("convmixer_tiny", image_size=48))
    assert predict(np.zeros((5, 48, 48, 3), np.float32)).shape == (5, 10)
    with pytest.raises(ValueError, match="48"):
        predict(np.zeros((1, 40, 48, 3), np.float32))


def test_static_last_dimension_is_the_output_s(reloaded):
    for head, units in (("classification", 10), ("fe", 32)):
        model = reloaded("convmixer_tiny", head)
        found = tf.function(model.__call__).get_concrete_function(tf.TensorSpec([None, None, None, 3])).output_shapes
        assert found.as_list() == [None, units]


# --- variables


@every_model
@pytest.mark.parametrize("head", tiny.OUTPUTS)
def test_every_weight_is_a_variable_and_the_statistics_alone_are_not_trainable(reloaded, name, head):
    weights = {k for k in tiny.source(name, head).state_dict() if not k.endswith("num_batches_tracked")}
    model = reloaded(name, head)
    assert [saved_model.name_of(v) for v in model.variables].count("stem.0.weight") == 1
    assert {saved_model.name_of(v) for v in model.variables} == weights
    trainable = {saved_model.name_of(v) for v in model.trainable_variables}
    assert trainable == {key for key in weights if "running_" not in key}
    for variable in model.variables:
        assert variable.trainable == (saved_model.name_of(variable) in trainable), variable.name


@every_model
def test_variables_are_the_checkpoint_s_numbers_exactly_in_the_axis_order_told(reloaded, name):
    axes, weights = tiny.exported(name).axes, tiny.weights(name)
    for variable in reloaded(name).variables:
        key = saved_model.name_of(variable)
        np.testing.assert_array_equal(variable.numpy(), np.transpose(weights[key], axes.get(key)), err_msg=key)


def test_kernels_are_stored_as_tensorflow_reads_them():
    variables = tiny.exported("convmixer_tiny").variables
    assert variables["stem.0.weight"].shape == (4, 4, 3, 32)
    assert variables["blocks.0.1.weight"].shape == (1, 1, 32, 32)
    assert variables["head.weight"].shape == (32, 10)


# --- gradients and training


@every_model
def test_reloaded_gradients_equal_the_upstream_definition(reloaded, name):
    golden = tiny.expected(name)
    found = as_source(saved_model.gradients(reloaded(name), golden_inputs(name)), name)
    expected = {"stem.0.weight": golden["grad_stem_weight"], "head.weight": golden["grad_head_weight"]}
    batch = len(golden["inputs"])  # upstream's loss is the sum, not divided by the batch
    rows = tiny.compare_gradients(expected, {key: batch * found[key] for key in expected}, "golden", batch)
    Report(rows).require()


@every_model
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_every_trainable_variable_equal_pytorch(reloaded, name, training):
    model = tiny.source(name).train(training)
    expected = convmixer.gradients(model, golden_inputs(name))
    loaded = reloaded(name)
    before = [v.numpy() for v in loaded.variables]
    try:
        found = as_source(saved_model.gradients(loaded, golden_inputs(name), training), name)
    finally:
        for variable, value in zip(loaded.variables, before, strict=True):
            variable.assign(value)
    if training:
        # What comes before a BatchNorm and is removed by it has no gradient but rounding: compare those by size.
        largest = max(np.abs(gradient).max() for gradient in expected.values())
        for key in [key for key, gradient in expected.items() if np.abs(gradient).max() < 1e-6 * largest]:
            assert np.abs(found.pop(key)).max() < 1e-5 * largest, key
            del expected[key]
    assert len(expected) > 20
    Report(tiny.compare_gradients(expected, found, "golden", 4)).require()


@every_model
def test_gradients_by_the_image_equal_the_upstream_definition(reloaded, name):
    images = tf.constant(golden_inputs(name))
    with tf.GradientTape() as tape:
        tape.watch(images)
        loss = tf.reduce_sum(reloaded(name)(images) ** 2)
    found = tape.gradient(loss, images).numpy()
    assert tiny.relative_l2(found, tiny.expected(name)["grad_inputs"]) <= 1e-4


@every_model
def test_evaluation_changes_no_variable(reloaded, name):
    model = reloaded(name)
    before = [v.numpy() for v in model.variables]
    model(tf.constant(golden_inputs(name)), training=False)
    model.signatures["serving_default"](inputs=tf.constant(golden_inputs(name)))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.name)


@every_model
def test_one_pass_in_training_mode_equals_pytorch_with_its_unbiased_variance(reloaded, name):
    # Few values by channel, so that a variance over n for n - 1 would show: 2 images of 2 x 2 patches, n = 8.
    side = 2 * tiny.architecture(name).patch_size
    batch = np.random.default_rng(2).normal(size=(2, side, side, 3)).astype(np.float32)
    expected, statistics = convmixer.training_pass(tiny.source(name), batch)
    found, updated = saved_model.training_pass(reloaded(name), batch)
    rows = compare_arrays({"": expected["logits"]}, {"": found}, output="training", tolerance=TRAINING_TOLERANCE)
    rows += compare_arrays(statistics, updated, output="statistics", tolerance=STATISTICS_TOLERANCE)
    Report(rows).require()
    # The control: the biased variance would fail.
    old = tiny.weights(name)
    biased = {
        key: np.float32(0.9) * old[key] + (value - np.float32(0.9) * old[key]) * np.float32(7 / 8)
        for key, value in updated.items()
        if key.endswith("running_var")
    }
    expected_variances = {key: statistics[key] for key in biased}
    assert not Report(
        compare_arrays(expected_variances, biased, output="statistics", tolerance=STATISTICS_TOLERANCE)
    ).passed


@every_model
def test_three_steps_of_gradient_descent_equal_pytorch_in_weights_and_statistics(saved, name):
    source = tiny.source(name).train()
    optimiser = torch.optim.SGD(source.parameters(), LEARNING_RATE)
    model = saved_model.load_model(saved(name, "classification", None))
    rng = np.random.default_rng(3)
    for step in range(1, 4):
        batch = rng.normal(size=(4, 48, 48, 3)).astype(np.float32)
        optimiser.zero_grad()
        loss = (source(torch.from_numpy(batch).permute(0, 3, 1, 2)) ** 2).sum() / len(batch)
        loss.backward()
        optimiser.step()
        with tf.GradientTape() as tape:
            found_loss = tf.reduce_sum(model(tf.constant(batch), training=True) ** 2) / len(batch)
        gradients = tape.gradient(found_loss, model.trainable_variables)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            variable.assign_sub(LEARNING_RATE * gradient)
        assert float(found_loss) == pytest.approx(loss.item(), rel=1e-4), step
        if step == 2:
            continue
        found = as_source({saved_model.name_of(v): v.numpy() for v in model.variables}, name)
        expected = {k: t.detach().numpy() for k, t in source.state_dict().items() if k in found}
        # Errors of earlier steps are carried on, so the looser of the two tolerances.
        Report(compare_arrays(expected, found, output=f"step {step}", tolerance=TRAINING_TOLERANCE)).require()
    moved = max(np.abs(found[k] - a).max() for k, a in tiny.weights(name).items() if k in found)
    assert moved > 1e-2


# --- layout: what TensorFlow really runs


def executed(call):
    """The graphs that `call` was the first to run, before Grappler and after: [(before, after)]."""
    context.context().enable_run_metadata()
    try:
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


@pytest.mark.parametrize("image_size", [None, 48])
@every_model
def test_no_transpose_is_left_in_the_executed_graph(saved, name, image_size):
    model = saved_model.load_model(saved(name, "classification", image_size))
    images = tf.constant(golden_inputs(name))
    for call in (lambda: model(images), lambda: model.signatures["serving_default"](inputs=images)):
        _, after = transposes(call)
        assert after == 0


@every_model
def test_no_transpose_is_left_in_a_forward_pass_in_training_mode(saved, name):
    model, images = saved_model.load_model(saved(name, "classification", None)), tf.constant(golden_inputs(name))
    _, after = transposes(lambda: model(images, training=True))
    assert after == 0


@every_model
@pytest.mark.parametrize("training", [False, True])
def test_no_transpose_is_left_in_a_compiled_training_step(saved, name, training):
    model, images = saved_model.load_model(saved(name, "classification", None)), tf.constant(golden_inputs(name))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=training) ** 2)
        return tape.gradient(loss, model.trainable_variables)

    _, after = transposes(step)
    assert after == 0


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
    assert tiny.relative_error(function(images), tiny.expected(name)["logits"]) <= TOLERANCE
    _, after = transposes(lambda: function(images))
    assert after > 0  # how many is the optimiser's choice


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
    assert sorted(op for ops in units for op in ops if op in kinds) == list(kinds)
    assert [ops.count("BiasAdd") for ops in units] == [1, 1, 1]
    assert [ops.count("AddV2") for ops in units] == [3, 3, 3]  # GELU's and BatchNorm's two: none is a bias


# --- TFLite


def test_tflite_converts_the_gelu_model_to_builtin_operators_with_a_gelu_among_them(saved, capfd):
    directory = saved("convmixer_tiny", "classification", 48)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(directory))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    content = converter.convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    found = [details["op_name"] for details in interpreter._get_ops_details()]
    assert found.count("GELU") == 7
    assert found.count("DEPTHWISE_CONV_2D") == 3
    assert not [op for op in found if op.startswith(("Flex", "CUSTOM")) or op in ("TRANSPOSE", "ERF")]
    runner = interpreter.get_signature_runner("serving_default")
    logits = runner(inputs=golden_inputs("convmixer_tiny"))["logits"]
    # TFLite's kernels, XNNPACK among them, sum in another order again and look GELU's erf up.
    assert tiny.relative_error(logits, tiny.expected("convmixer_tiny")["logits"]) <= 1e-3


# --- errors


def test_missing_weight_is_named():
    weights = tiny.weights("convmixer_tiny")
    del weights["blocks.1.3.running_var"]
    with pytest.raises(ConversionError, match=r"blocks\.1\.3\.running_var \(32,\), which the weights lack"):
        export_tensorflow(tiny.graph("convmixer_tiny"), weights, None, "logits")


@pytest.mark.parametrize("change", [lambda a: a.T.copy(), lambda a: a.astype(np.float64)], ids=["shape", "dtype"])
def test_weight_of_another_shape_or_dtype_is_named(change):
    weights = tiny.weights("convmixer_tiny")
    weights["head.weight"] = change(weights["head.weight"])
    with pytest.raises(ConversionError, match=r"head\.weight is float.* reads float32 \(10, 32\)"):
        export_tensorflow(tiny.graph("convmixer_tiny"), weights, None, "logits")


def test_operator_without_a_handler_is_named():
    graph = tiny.graph("convmixer_tiny")
    (add, *_rest) = [node for node in graph.graph.node if node.op_type == "Add"]
    add.op_type = "GridSample"
    with pytest.raises(ConversionError, match=r"no handler for the ONNX operators \['GridSample'\]"):
        export_tensorflow(graph, tiny.weights("convmixer_tiny"), None, "logits")


def test_exporting_neither_keeps_nor_changes_the_caller_s_arrays():
    weights = tiny.weights("convmixer_tiny")
    before = copy.deepcopy(weights)
    variables = export_tensorflow(tiny.graph("convmixer_tiny"), weights, None, "logits").variables
    for variable in variables.values():
        variable.assign(tf.zeros_like(variable))
    for key, array in weights.items():
        np.testing.assert_array_equal(array, before[key], err_msg=key)
