"""The Flax source model against what the upstream definition computed."""

import importlib.util
import sys
import types
from dataclasses import replace

import flax.core.tracers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from utils.errors import CheckpointError, ParameterError
from utils.families.mlp_mixer import source as mlp_mixer
from utils.families.variants import get_variant

ARCHITECTURE = get_variant("mixer_tiny").architecture

# Same framework, same operations: only the order of summation inside XLA can differ.
TOLERANCE = 1e-6


def imported_again(monkeypatch):
    """The module as it is with the JAX that there is now."""
    specification = importlib.util.spec_from_file_location("mlp_mixer_again", mlp_mixer.__file__)
    again = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "mlp_mixer_again", again)
    specification.loader.exec_module(again)
    return again


def test_jax_0_7_computes_in_float64_by_its_older_name(monkeypatch, mixer_weights, mixer_golden):
    monkeypatch.setattr(jax.experimental, "enable_x64", jax.enable_x64, raising=False)
    monkeypatch.delattr(jax, "enable_x64")
    again = imported_again(monkeypatch)
    source = again.ReferenceModel(again.build(ARCHITECTURE), mixer_weights)
    found = source.outputs(mixer_golden["inputs"], "float64")["logits"]
    assert found.dtype == np.float64
    assert tiny.relative_error(found, mixer_golden["logits"]) <= TOLERANCE


def test_flax_0_11_runs_beside_jax_0_11(monkeypatch, mixer_weights, mixer_golden):
    def current_trace():  # Flax 0.11.2's
        return jax.core.get_opaque_trace_state(convention="flax")

    kept = {name: value for name, value in vars(jax.core).items() if name != "__getattr__"}  # what is deprecated goes
    monkeypatch.setattr(jax, "core", types.SimpleNamespace(**kept))
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 1))
    monkeypatch.setattr(flax.core.tracers, "current_trace", current_trace)
    with pytest.raises(AttributeError, match="get_opaque_trace_state"):
        current_trace()

    again = imported_again(monkeypatch)
    model = again.build(ARCHITECTURE)
    found = again.as_function(model, again.select_parameters(model, mixer_weights))(mixer_golden["inputs"])
    assert tiny.relative_error(found, mixer_golden["logits"]) <= TOLERANCE


@pytest.mark.parametrize(("head", "output"), [("classification", "logits"), ("fe", "features")])
def test_outputs_equal_the_upstream_definition(mixer_weights, mixer_golden, head, output):
    model = mlp_mixer.build(ARCHITECTURE, head)
    function = mlp_mixer.as_function(model, mlp_mixer.select_parameters(model, mixer_weights))
    found = function(mixer_golden["inputs"])
    assert found.shape == mixer_golden[output].shape
    assert tiny.relative_error(found, mixer_golden[output]) <= TOLERANCE


def test_gradients_equal_the_upstream_definition(mixer_weights, mixer_golden):
    model = mlp_mixer.build(ARCHITECTURE)
    predict = mlp_mixer.predict_function(model)
    by_parameter, by_input = jax.grad(lambda p, x: (predict(p, x) ** 2).sum(), argnums=(0, 1))(
        mlp_mixer.select_parameters(model, mixer_weights), mixer_golden["inputs"]
    )
    assert tiny.relative_l2(by_input, mixer_golden["grad_inputs"]) <= TOLERANCE
    assert tiny.relative_l2(by_parameter["stem/kernel"], mixer_golden["grad_stem_kernel"]) <= TOLERANCE
    assert tiny.relative_l2(by_parameter["head/kernel"], mixer_golden["grad_head_kernel"]) <= TOLERANCE


def test_gradients_vanish_exactly_where_a_layer_norm_hides_the_parameter(mixer_weights, mixer_golden):
    model = mlp_mixer.build(ARCHITECTURE)
    source = mlp_mixer.ReferenceModel(model, mlp_mixer.select_parameters(model, mixer_weights))
    found = source.gradients(mixer_golden["inputs"], "float32")
    largest = max(np.abs(array).max() for array in found.values())
    vanishing = {key for key, array in found.items() if np.abs(array).max() < 1e-6 * largest}
    assert vanishing == set(filter(mlp_mixer.without_influence, found)) != set()


def test_vanishing_gradient_is_joined_with_its_kernels_and_nothing_is_lost():
    bias, kernel = "MixerBlock_0/token_mixing/Dense_1/bias", "MixerBlock_0/token_mixing/Dense_1/kernel"
    gradients = {"stem/bias": np.ones(2), bias: np.array([5.0]), kernel: np.array([[1.0, 2.0], [3.0, 4.0]])}
    joined = mlp_mixer.join_vanishing(gradients)
    assert joined.keys() == {"stem/bias", f"{kernel} and bias"}
    assert joined[f"{kernel} and bias"].tolist() == [1, 2, 3, 4, 5]
    for missing in (bias, kernel):
        assert mlp_mixer.join_vanishing(gradients | {missing: None})[f"{kernel} and bias"] is None


@pytest.mark.parametrize("head", tiny.OUTPUTS)
def test_missing_unexpected_and_misshapen_parameters_are_all_named(mixer_weights, head):
    faulty = {key: array for key, array in mixer_weights.items() if key != "stem/bias"}
    faulty["head/scale"] = np.zeros(1, np.float32)
    faulty["stem/kernel"] = mixer_weights["stem/kernel"].T
    with pytest.raises(CheckpointError) as error:
        mlp_mixer.select_parameters(mlp_mixer.build(ARCHITECTURE, head), faulty)
    for part in ("missing stem/bias", "unexpected head/scale", "stem/kernel: expected shape (8, 8, 3, 32)"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("architecture", "head", "message"),
    [(ARCHITECTURE, "features", "'features'"), (replace(ARCHITECTURE, image_size=50), "fe", "image_size")],
)
def test_unknown_head_and_image_that_patches_do_not_fill_are_refused(architecture, head, message):
    with pytest.raises(ParameterError, match=message):
        mlp_mixer.build(architecture, head)


@pytest.mark.parametrize("head", tiny.OUTPUTS)
def test_float64_is_the_truth_that_golden_data_round_and_stays_where_it_was_asked_for(head):
    golden, model = tiny.expected("mixer_tiny"), mlp_mixer.build(tiny.architecture("mixer_tiny"), head)
    source = mlp_mixer.ReferenceModel(model, mlp_mixer.select_parameters(model, tiny.mixer_weights()))
    outputs = source.outputs(golden["inputs"], "float64")
    assert outputs.keys() == {"features", tiny.OUTPUTS[head]}  # a classifier's run gives the features too
    for output, found in outputs.items():
        assert found.dtype == np.float64
        assert tiny.relative_error(found, golden[output]) <= TOLERANCE
        assert np.abs(found - found.astype(np.float32)).max() > 0  # not float32 in a wider dress
    exact, rounded = (source.gradients(golden["inputs"], dtype) for dtype in ("float64", "float32"))
    for key in exact:
        assert (exact[key].dtype, rounded[key].dtype) == (np.float64, np.float32)
        if not mlp_mixer.without_influence(key):
            assert tiny.relative_l2(rounded[key], exact[key]) < 1e-5
    assert jnp.ones(1).dtype == jnp.float32
