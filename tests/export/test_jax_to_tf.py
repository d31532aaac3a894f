"""Both kinds of exported Mixer, reloaded from disk, against the Flax model they come from."""

import jax
import numpy as np
import pytest
import tensorflow as tf
import tiny

from utils.errors import ConversionError
from utils.export import jax_to_tf, saved_model
from utils.families.variants import get_variant

ARCHITECTURE = get_variant("mixer_tiny").architecture


def export(kind, head="classification"):
    return tiny.mixer(head, kind)[0]


@pytest.fixture(
    scope="module",
    params=[("xla", "classification"), ("plain", "classification"), ("plain", "fe"), tiny.slow(("xla", "fe"))],
    ids="-".join,
)
def reloaded(request, tmp_path_factory):
    """(head, model) for each kind and head, saved and loaded again."""
    kind, head = request.param
    folder = tmp_path_factory.mktemp("exports") / f"{kind}_{head}"
    return head, saved_model.load_model(saved_model.save_model(export(kind, head), folder))


def test_golden_outputs_survive_saving_and_loading(reloaded, mixer_golden):
    head, model = reloaded
    found = model(tf.constant(mixer_golden["inputs"])).numpy()
    np.testing.assert_allclose(found, mixer_golden[tiny.OUTPUTS[head]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("reloaded", [(kind, "classification") for kind in ("xla", "plain")], indirect=True)
def test_gradient_by_the_inputs_equals_the_upstream_definition(reloaded, mixer_golden):
    _, model = reloaded
    inputs = tf.constant(mixer_golden["inputs"])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(model(inputs) ** 2)
    assert tiny.relative_l2(tape.gradient(loss, inputs).numpy(), mixer_golden["grad_inputs"]) <= 1e-5


def operations(function):
    """Every operation of a concrete function, those of the functions it calls included."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]


def concrete(exported, training=False):
    inputs = tf.TensorSpec([None, *exported.input_shape], tf.float32)
    return tf.function(exported.call, autograph=False).get_concrete_function(inputs, training)


def test_xla_module_is_what_the_oldest_tensorflow_reads():
    exported = export("xla")
    modules = [node for node in operations(concrete(exported)) if node.op == "XlaCallModule"]
    assert len(modules) == 1
    attributes = modules[0].attr
    assert attributes["version"].i == exported.extra_versions["calling_convention_version"] == 8
    assert f"StableHLO_v{exported.extra_versions['stablehlo_version']}".encode() in attributes["module"].s
    assert list(attributes["platforms"].list.s) == [b"CPU", b"CUDA", b"TPU"]
    assert b".py" not in attributes["module"].s, "source locations stop old TensorFlow"


def test_in_training_mode_the_products_of_the_forward_pass_are_handed_on_and_no_weights():
    exported = export("xla")
    (inference,), (training,) = (
        [node for node in operations(concrete(exported, mode)) if node.op == "XlaCallModule"] for mode in (False, True)
    )
    assert len(inference.attr["Tout"].list.type) == 1
    shapes = [[size.size for size in shape.dim] for shape in training.attr["Sout"].list.shape][1:]
    # Four products in a block, and the stem's: what lies between them would be several times as many.
    assert 0 < len(shapes) <= 4 * ARCHITECTURE.blocks + 2
    assert {shape[0] for shape in shapes} == {-1}, "weights have no batch, and are arguments of the gradient already"


def test_plain_operations_are_ordinary_ones():
    found = {node.op for node in operations(concrete(export("plain")))}
    assert not {op for op in found if op.startswith(("Xla", "Py", "Eager")) or "Custom" in op}
    assert "MatMul" in found


def shouting(parameters, inputs):
    jax.debug.print("{}", inputs.shape)
    return inputs.mean((1, 2)) * parameters["scale"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (shouting, "side effects"),
        (lambda p, x: (x.mean((1, 2)), p["scale"]), r"\[batch, units\]"),
        (lambda p, x: x.mean((0, 1)), r"\[batch, units\]"),
    ],
    ids=["side effect", "two outputs", "batch lost"],
)
def test_function_of_another_kind_is_refused(function, message):
    with pytest.raises(ConversionError, match=message):
        jax_to_tf.export(function, {"scale": np.ones(3, np.float32)}, (8, 8, 3), "features")
