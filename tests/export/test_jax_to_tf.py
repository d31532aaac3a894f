"""Both kinds of exported Mixer, reloaded from disk, against the Flax model they come from."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import tiny

from utils.errors import ConversionError
from utils.export import jax_to_tf, plain_mixer, saved_model
from utils.models import mlp_mixer
from utils.models.variants import get_variant
from utils.parity.comparison import compare_outputs, standard_inputs

ARCHITECTURE = get_variant("mixer_tiny").architecture
SIZE = ARCHITECTURE.image_size
KINDS = ("xla", "plain")


def source(weights, head="classification", architecture=ARCHITECTURE):
    """(predict, parameters) of the Flax model."""
    model = mlp_mixer.build(architecture, head)
    return mlp_mixer.predict_function(model), mlp_mixer.select_parameters(model, weights)


def export(kind, weights, head="classification", architecture=ARCHITECTURE, order=lambda inputs: inputs):
    predict, parameters = source(weights, head, architecture)
    if kind == "plain":
        return plain_mixer.export(architecture, head, parameters)
    return jax_to_tf.export(
        lambda parameters, inputs: predict(parameters, order(inputs)),
        parameters,
        (SIZE, SIZE, 3),
        tiny.OUTPUTS[head],
    )


@pytest.fixture(scope="module", params=[(kind, head) for kind in KINDS for head in tiny.OUTPUTS], ids="-".join)
def reloaded(request, weights, tmp_path_factory):
    """(head, model) for each kind and head, saved and loaded again."""
    kind, head = request.param
    folder = tmp_path_factory.mktemp("exports") / f"{kind}_{head}"
    return head, saved_model.load_model(saved_model.save_model(export(kind, weights, head), folder))


def test_golden_outputs_survive_saving_and_loading(reloaded, expected):
    head, model = reloaded
    found = model(tf.constant(expected["inputs"])).numpy()
    np.testing.assert_allclose(found, expected[tiny.OUTPUTS[head]], rtol=0, atol=1e-6)


def test_every_standard_input_and_batch_passes_the_gate(reloaded, weights):
    head, model = reloaded
    predict, parameters = source(weights, head)
    pictures = np.random.default_rng(2).standard_normal((3, SIZE, SIZE, 3), dtype=np.float32)
    rows = compare_outputs(
        lambda inputs: np.asarray(predict(parameters, inputs)),
        saved_model.as_function(model),
        standard_inputs(SIZE, SIZE, seed=0, photographs={str(i): picture for i, picture in enumerate(pictures)}),
        tiny.OUTPUTS[head],
    )
    assert {row.batch for row in rows} == {1, 3}
    assert all(row.passed for row in rows), rows


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_every_parameter_equal_those_of_jax(reloaded, weights, expected, training):
    head, model = reloaded
    flax, inputs = mlp_mixer.build(ARCHITECTURE, head), expected["inputs"]
    parameters = mlp_mixer.select_parameters(flax, weights)
    reference = mlp_mixer.gradients(flax, parameters, inputs)
    found = saved_model.gradients(model, inputs, training)
    assert set(found) == set(parameters)
    for name in filter(mlp_mixer.without_influence, parameters):
        assert np.abs(found[name]).max() < 1e-6, "rounding is all that is left of this gradient"
    reference, found = mlp_mixer.join_vanishing(reference), mlp_mixer.join_vanishing(found)
    rows = tiny.compare_gradients(reference, found, "golden", len(inputs))
    assert all(row.passed for row in rows), rows


def test_gradient_by_the_inputs_equals_the_upstream_definition(reloaded, expected):
    head, model = reloaded
    inputs = tf.constant(expected["inputs"])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(model(inputs) ** 2)
    found = tape.gradient(loss, inputs).numpy()
    if head == "classification":
        assert tiny.relative_l2(found, expected["grad_inputs"]) <= 1e-5
    else:
        assert np.abs(found).max() > 0


def test_signature_has_a_dynamic_batch_and_static_units(reloaded):
    head, model = reloaded
    signature = model.signatures["serving_default"]
    units = ARCHITECTURE.classes if head == "classification" else ARCHITECTURE.hidden_dim
    assert signature.structured_input_signature[1]["inputs"].shape.as_list() == [None, SIZE, SIZE, 3]
    assert signature.structured_outputs[tiny.OUTPUTS[head]].shape.as_list() == [None, units]


def test_variables_carry_the_names_of_the_checkpoint(reloaded, weights):
    head, model = reloaded
    names = {variable.name.removesuffix(":0") for variable in model.trainable_variables}
    assert names == set(source(weights, head)[1])


class ChannelsFirst(nn.Module):
    """A Mixer block that mixes over channels before it mixes over tokens."""

    architecture: object

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm(epsilon=self.architecture.layer_norm_epsilon, name="LayerNorm_0")(x)
        x = x + mlp_mixer.MlpBlock(self.architecture.channels_mlp_dim, name="channel_mixing")(y)
        y = nn.LayerNorm(epsilon=self.architecture.layer_norm_epsilon, name="LayerNorm_1")(x)
        y = mlp_mixer.MlpBlock(self.architecture.tokens_mlp_dim, name="token_mixing")(jnp.swapaxes(y, 1, 2))
        return x + jnp.swapaxes(y, 1, 2)


def channels_first(x, architecture, scope):
    """The same fault for the plain operations."""
    plain, tokens, channels = plain_mixer, architecture.tokens, architecture.hidden_dim

    def part(name):
        return plain._within(scope, name)

    y = plain._layer_norm(x, architecture.layer_norm_epsilon, part("LayerNorm_0"))
    x += plain._mlp(y, part("channel_mixing"))
    y = plain._layer_norm(x, architecture.layer_norm_epsilon, part("LayerNorm_1"))
    return x + plain._swap(plain._mlp(plain._swap(y, tokens, channels), part("token_mixing")), channels, tokens)


def by_columns(inputs):
    """The image with its grid of patches transposed: what numbering them by column amounts to."""
    patch, grid = ARCHITECTURE.patch_size, SIZE // ARCHITECTURE.patch_size
    patches = inputs.reshape(-1, grid, patch, grid, patch, 3)
    return patches.transpose(0, 3, 2, 1, 4, 5).reshape(-1, SIZE, SIZE, 3)


def faulty(kind, fault, weights, monkeypatch):
    """An export of the tiny classifier with one fault planted."""
    if fault == "epsilon 1e-5":
        return export(kind, weights, architecture=replace(ARCHITECTURE, layer_norm_epsilon=1e-5))
    if fault == "erf GELU":
        module = nn if kind == "xla" else tf.nn
        gelu = module.gelu
        monkeypatch.setattr(module, "gelu", lambda x, approximate: gelu(x, approximate=False))
    elif fault == "token and channel mixing swapped":
        monkeypatch.setattr(mlp_mixer, "MixerBlock", ChannelsFirst)
        monkeypatch.setattr(plain_mixer, "_block", channels_first)
    elif fault == "patches in column order":
        conv2d = tf.nn.conv2d
        monkeypatch.setattr(tf.nn, "conv2d", lambda *a, **k: tf.transpose(conv2d(*a, **k), [0, 2, 1, 3]))
        return export(kind, weights, order=by_columns)
    return export(kind, weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fault",
    ["none", "erf GELU", "epsilon 1e-5", "token and channel mixing swapped", "patches in column order"],
)
def test_planted_fault_fails_the_gate(kind, fault, weights, monkeypatch):
    # Epsilon counts where variance is small, as after the stem of a trained model: here it is near 0.01.
    weights = weights | {name: 0.1 * weights[name] for name in ("stem/kernel", "stem/bias")}
    reference = jax.jit(source(weights)[0])
    parameters = source(weights)[1]
    inputs = standard_inputs(SIZE, SIZE, seed=0)
    # Before anything is patched, the reference is traced for each batch size.
    expected = {batch.tobytes(): np.asarray(reference(parameters, batch)) for batch in inputs.values()}
    candidate = tf.function(faulty(kind, fault, weights, monkeypatch).call, autograph=False)
    rows = compare_outputs(
        lambda batch: expected[batch.tobytes()],
        lambda batch: candidate(tf.constant(batch), False).numpy(),
        inputs,
        "logits",
    )
    assert all(row.passed for row in rows) == (fault == "none"), rows


def operations(function):
    """Every operation of a concrete function, those of the functions it calls included."""
    graph = function.graph.as_graph_def()
    return [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]


def concrete(exported, training=False):
    inputs = tf.TensorSpec([None, *exported.input_shape], tf.float32)
    return tf.function(exported.call, autograph=False).get_concrete_function(inputs, training)


def test_xla_module_is_what_the_oldest_tensorflow_reads(weights):
    exported = export("xla", weights)
    modules = [node for node in operations(concrete(exported)) if node.op == "XlaCallModule"]
    assert len(modules) == 1
    attributes = modules[0].attr
    assert attributes["version"].i == exported.extra_versions["calling_convention_version"] == 8
    assert f"StableHLO_v{exported.extra_versions['stablehlo_version']}".encode() in attributes["module"].s
    assert list(attributes["platforms"].list.s) == [b"CPU", b"CUDA", b"TPU"]
    assert b".py" not in attributes["module"].s, "source locations stop old TensorFlow"


def test_in_training_mode_the_products_of_the_forward_pass_are_handed_on_and_no_weights(weights):
    exported = export("xla", weights)
    (inference,), (training,) = (
        [node for node in operations(concrete(exported, mode)) if node.op == "XlaCallModule"] for mode in (False, True)
    )
    assert len(inference.attr["Tout"].list.type) == 1
    shapes = [[size.size for size in shape.dim] for shape in training.attr["Sout"].list.shape][1:]
    # Four products in a block, and the stem's: what lies between them would be several times as many.
    assert 0 < len(shapes) <= 4 * ARCHITECTURE.blocks + 2
    assert {shape[0] for shape in shapes} == {-1}, "weights have no batch, and are arguments of the gradient already"


def test_the_gradient_in_training_mode_computes_no_product_twice(weights):
    predict, parameters = source(weights)
    inference, training = jax_to_tf._lower(predict, parameters, (SIZE, SIZE, 3))
    forward, recomputed, kept = (
        exported.mlir_module().count("stablehlo.dot_general")
        for exported in (inference.forward, inference.backward, training.backward)
    )
    assert kept == 2 * forward  # by either factor of each
    assert recomputed > kept


def test_plain_operations_are_ordinary_ones(weights):
    found = {node.op for node in operations(concrete(export("plain", weights)))}
    assert not {op for op in found if op.startswith(("Xla", "Py", "Eager")) or "Custom" in op}
    assert "MatMul" in found


def test_function_with_a_side_effect_is_refused():
    def shouting(parameters, inputs):
        jax.debug.print("{}", inputs.shape)
        return inputs.mean((1, 2)) * parameters["scale"]

    with pytest.raises(ConversionError, match="side effects"):
        jax_to_tf.export(shouting, {"scale": np.ones(3, np.float32)}, (8, 8, 3), "features")


@pytest.mark.parametrize(
    "function",
    [lambda p, x: x * p["scale"], lambda p, x: (x.mean((1, 2)), p["scale"]), lambda p, x: x.mean((0, 1))],
    ids=["four dimensions", "two outputs", "batch lost"],
)
def test_function_with_another_kind_of_output_is_refused(function):
    with pytest.raises(ConversionError, match=r"\[batch, units\]"):
        jax_to_tf.export(function, {"scale": np.ones(3, np.float32)}, (8, 8, 3), "features")
