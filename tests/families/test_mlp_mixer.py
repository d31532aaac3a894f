"""The Flax source model against what the upstream definition computed, and its strictness."""

import importlib.util
import sys
import types

import flax.core.tracers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from utils.errors import CheckpointError, ParameterError
from utils.families.mlp_mixer import source as mlp_mixer

ARCHITECTURE = tiny.architecture("mixer_tiny")

# Same framework, same operations: only the order of summation inside XLA can differ.
TOLERANCE = 1e-6


def reference(head="classification", module=mlp_mixer):
    model = module.build(ARCHITECTURE, head)
    return module.ReferenceModel(model, module.select_parameters(model, tiny.mixer_weights()))


@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_outputs_equal_the_upstream_definition_and_float64_stays_where_it_was_asked_for(mixer_golden, head, output):
    source = reference(head)
    function = mlp_mixer.as_function(source.model, source.variables())
    assert tiny.relative_error(function(mixer_golden["inputs"]), mixer_golden[output]) <= TOLERANCE
    exact = source.outputs(mixer_golden["inputs"], "float64")
    assert exact.keys() == {"features", output}  # a classifier's run gives the features too
    for each, values in exact.items():
        assert tiny.relative_error(values, mixer_golden[each]) <= TOLERANCE
        assert (values != values.astype(np.float32)).any(), "computed in float32, and called float64"
    assert jnp.ones(1).dtype == jnp.float32


def test_gradients_equal_the_upstream_definition_and_vanish_where_a_layer_norm_hides_the_parameter(mixer_golden):
    source = reference()
    rounded, exact = (source.gradients(mixer_golden["inputs"], dtype) for dtype in ("float32", "float64"))
    for weight, gradient in (("stem/kernel", "grad_stem_kernel"), ("head/kernel", "grad_head_kernel")):
        # Upstream's loss is sum(logits ** 2), not divided by the batch of 4.
        assert tiny.relative_l2(4 * rounded[weight], mixer_golden[gradient]) <= TOLERANCE
    largest = max(np.abs(array).max() for array in rounded.values())
    vanishing = {key for key, array in rounded.items() if np.abs(array).max() < 1e-6 * largest}
    assert vanishing == set(filter(mlp_mixer.without_influence, rounded)) != set()
    for key in exact:
        assert (exact[key].dtype, rounded[key].dtype) == (np.float64, np.float32)
        assert key in vanishing or tiny.relative_l2(rounded[key], exact[key]) < 1e-5


def test_vanishing_gradient_is_joined_with_its_kernels_and_nothing_is_lost():
    bias, kernel = "MixerBlock_0/token_mixing/Dense_1/bias", "MixerBlock_0/token_mixing/Dense_1/kernel"
    gradients = {"stem/bias": np.ones(2), bias: np.array([5.0]), kernel: np.array([[1.0, 2.0], [3.0, 4.0]])}
    joined = mlp_mixer.join_vanishing(gradients)
    assert joined.keys() == {"stem/bias", f"{kernel} and bias"}
    assert joined[f"{kernel} and bias"].tolist() == [1, 2, 3, 4, 5]
    for missing in (bias, kernel):
        assert mlp_mixer.join_vanishing(gradients | {missing: None})[f"{kernel} and bias"] is None


@pytest.mark.parametrize("head", tiny.OUTPUTS)
def test_missing_unexpected_and_misshapen_parameters_are_all_named(head):
    faulty = {key: array for key, array in tiny.mixer_weights().items() if key != "stem/bias"}
    faulty |= {"head/scale": np.zeros(1, np.float32), "stem/kernel": faulty["stem/kernel"].T}
    with pytest.raises(CheckpointError) as error:
        mlp_mixer.select_parameters(mlp_mixer.build(ARCHITECTURE, head), faulty)
    for part in ("stem/bias: expected (32,)", "head/scale: expected none", "stem/kernel: expected (8, 8, 3, 32)"):
        assert part in str(error.value)


def test_unknown_head_is_refused():
    with pytest.raises(ParameterError, match="'features'"):
        mlp_mixer.build(ARCHITECTURE, "features")


# Other versions of JAX and Flax.


def imported_again(monkeypatch):
    """The module as it is with the JAX that there is now."""
    specification = importlib.util.spec_from_file_location("mlp_mixer_again", mlp_mixer.__file__)
    again = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "mlp_mixer_again", again)
    specification.loader.exec_module(again)
    return again


def test_jax_0_7_computes_in_float64_by_its_older_name(monkeypatch, mixer_golden):
    monkeypatch.setattr(jax.experimental, "enable_x64", jax.enable_x64, raising=False)
    monkeypatch.delattr(jax, "enable_x64")
    found = reference(module=imported_again(monkeypatch)).outputs(mixer_golden["inputs"], "float64")["logits"]
    assert found.dtype == np.float64


def test_flax_0_11_runs_beside_jax_0_11(monkeypatch, mixer_golden):
    def current_trace():  # Flax 0.11.2's
        return jax.core.get_opaque_trace_state(convention="flax")

    kept = {name: value for name, value in vars(jax.core).items() if name != "__getattr__"}  # what is deprecated goes
    monkeypatch.setattr(jax, "core", types.SimpleNamespace(**kept))
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 1))
    monkeypatch.setattr(flax.core.tracers, "current_trace", current_trace)
    with pytest.raises(AttributeError, match="get_opaque_trace_state"):
        current_trace()
    found = reference(module=imported_again(monkeypatch)).outputs(mixer_golden["inputs"], "float32")["logits"]
    assert tiny.relative_error(found, mixer_golden["logits"]) <= TOLERANCE
