"""The gate on native models, on TensorFlow in this process: honest ones pass, planted faults do not."""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from unittest import mock

import keras
import keras_tiny
import numpy as np
import proofs
import pytest
import tiny
from keras_tiny import GELU, MIXER, NAMES, RELU

from utils.families import FAMILIES
from utils.families.convmixer import keras_model as convmixer
from utils.families.mlp_mixer import keras_model as mlp_mixer
from utils.keras_models.candidate import Candidate
from utils.keras_models.conventions import with_keras_variances
from utils.parity.judge import RATIO
from utils.parity.report import Report


def candidate(name, **settings):
    return Candidate(keras_tiny.built(name, **settings), FAMILIES[keras_tiny.family(name)].layout.KERAS_NAMES)


def test_honest_model_passes():
    """The others are in `test_backends`, from their files."""
    rows = proofs.proof(RELU, "fe").compare(candidate(RELU, head="fe"), training=False)
    Report(rows).require()


@dataclass(frozen=True)
class Fault:
    """What is otherwise: fields of the architecture, names in modules while it is built, arrays, images on their side.

    training: inference has no part in it.
    """

    architecture: dict = field(default_factory=dict)
    patches: tuple = ()
    weights: object = None
    turned: bool = False
    training: bool = False


class OtherGelu(keras.layers.Activation):
    def __init__(self, activation, **settings):
        super().__init__(mlp_mixer.GELU if activation == "gelu" else activation, **settings)


def without_residual(name):
    return lambda both: both[1]


def axes(pattern, order):
    return (FAMILIES["convmixer"].layout.KERAS_NAMES.axes, {pattern: order})


def one_array(key, change):
    def plant(arrays):
        arrays[key] = np.ascontiguousarray(change(arrays[key]))

    return plant


def one_number(key):
    def plant(arrays):
        flat = arrays[key].reshape(-1)
        flat[np.argmax(np.abs(flat))] *= np.float32(1.01)

    return plant


DEPTHWISE, POINTWISE, CHANNELS = (
    "blocks.1.0.fn.0.weight",
    "blocks.1.1.weight",
    "MixerBlock_1/channel_mixing/Dense_1/kernel",
)
FAULTS = {
    (GELU, "tanh for erf"): Fault(patches=((convmixer.layers, "Activation", OtherGelu),)),
    (MIXER, "erf for tanh"): Fault(patches=((mlp_mixer, "GELU", "gelu"),)),
    (GELU, "another epsilon"): Fault({"batch_norm_epsilon": 2e-5}),
    (RELU, "Keras's own epsilon"): Fault({"batch_norm_epsilon": 1e-3}),
    (MIXER, "another epsilon"): Fault({"layer_norm_epsilon": 2e-6}),
    (MIXER, "Keras's own epsilon"): Fault({"layer_norm_epsilon": 1e-3}),
    (RELU, "Keras's own momentum"): Fault(patches=((convmixer, "MOMENTUM", 0.99),), training=True),
    (GELU, "PyTorch's momentum"): Fault(patches=((convmixer, "MOMENTUM", 0.1),), training=True),
    **{(name, "height and width swapped"): Fault(turned=True) for name in NAMES},
    **{(name, "residuals dropped"): Fault(patches=((keras.layers, "Add", without_residual),)) for name in NAMES},
    (GELU, "one weight"): Fault(weights=one_number(POINTWISE)),
    (RELU, "one weight"): Fault(weights=one_number(DEPTHWISE)),
    (MIXER, "one weight"): Fault(weights=one_number(CHANNELS)),
    (GELU, "depthwise kernel transposed"): Fault(weights=one_array(DEPTHWISE, lambda a: a.swapaxes(2, 3))),
    (RELU, "pointwise kernel transposed"): Fault(weights=one_array(POINTWISE, lambda a: a.swapaxes(0, 1))),
    (MIXER, "stem's kernel transposed"): Fault(weights=one_array("stem/kernel", lambda a: a.swapaxes(0, 1))),
}


@contextmanager
def planted(fault):
    with ExitStack() as stack:
        for target, name, value in fault.patches:
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def faulty(name, fault):
    arrays = proofs.weights(name)
    if fault.weights:
        fault.weights(arrays)
    architecture = replace(tiny.architecture(name), **fault.architecture)
    model = keras_tiny.built(name, arrays=arrays, architecture=architecture, fault=planted(fault))
    if fault.turned:
        inputs = keras.Input((48, 48, 3))
        model = keras.Model(inputs, model(keras.layers.Permute((2, 1, 3))(inputs)))
    return Candidate(model, FAMILIES[keras_tiny.family(name)].layout.KERAS_NAMES)


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_fault_fails_the_gate(name, fault):
    planted = FAULTS[name, fault]
    rows = proofs.proof(name).compare(faulty(name, planted), training=planted.training)
    if not planted.weights:  # a changed array shows by itself; is seen in the outputs too, below
        assert all(row.passed for row in rows if row.output == "variables")
    failed = proofs.failed(rows)
    assert failed == {"moving statistics"} if planted.training else "logits" in failed, Report(rows).table()
    assert max(row.ratio for row in rows if row.ratio is not None) > 2 * RATIO or "one weight" in fault


def test_statistics_over_n_for_n_minus_1_are_promised_and_nothing_else():
    before = {"a.running_mean": np.ones(3, np.float32), "a.running_var": np.full(3, 2, np.float32)}
    # PyTorch: 0.9 * 2 + 0.1 * 5, where 5 is over n - 1 and 4.5 over n, of 10
    after = {"a.running_mean": np.zeros(3), "a.running_var": np.full(3, 0.9 * 2 + 0.1 * 5)}
    found = with_keras_variances(after, before, 10)
    np.testing.assert_array_equal(found["a.running_mean"], 0)
    np.testing.assert_allclose(found["a.running_var"], 0.9 * 2 + 0.1 * 4.5, rtol=1e-15)


def test_the_model_is_as_before_once_it_was_compared():
    here = candidate(GELU)
    before = here.variables()
    proofs.proof(GELU).compare(here)
    here.gradients(proofs.proof(GELU).inputs["noise"], training=True)
    for key, value in here.variables().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)
