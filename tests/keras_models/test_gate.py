"""The Keras models, on TensorFlow in this process: what upstream computes, and faults that the gate must see."""

import copy
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

from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.convmixer import keras_model as convmixer
from utils.families.convmixer.source import as_nhwc
from utils.keras_models import saving
from utils.keras_models.candidate import Candidate
from utils.parity.comparison import compare_outputs
from utils.parity.judge import RATIO
from utils.parity.report import Report

# --- the models


@pytest.mark.parametrize("head", tiny.OUTPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_gives_what_upstream_gives(name, head):
    expected = tiny.expected(name)
    found = keras_tiny.built(name, head)(expected["inputs"], training=False)
    assert tiny.relative_l2(found, expected[tiny.OUTPUTS[head]]) < 1e-6


def test_convmixer_takes_any_size_or_the_one_that_was_asked_for():
    free, fixed = keras_tiny.built(GELU), keras_tiny.built(GELU, image_size=48)
    assert (free.input_shape, fixed.input_shape) == ((None, None, None, 3), (None, 48, 48, 3))
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(fixed(images), free(images))


def test_features_of_many_patches_err_as_little_as_pytorch_s():
    """TensorFlow's mean over height and width of channels-last arrays adds each term to all before it."""
    inputs = {"noise": np.random.default_rng(0).standard_normal((1, 512, 512, 3), dtype=np.float32)}
    source, model = tiny.source(GELU, "fe"), keras_tiny.built(GELU, "fe")
    double = as_nhwc(copy.deepcopy(source).double())
    truth = lambda x: double(x.astype(np.float64))  # noqa: E731
    found = lambda x: np.asarray(model(x))  # noqa: E731
    (row,) = compare_outputs(truth, found, inputs, "features", source=as_nhwc(source))
    assert row.ratio < RATIO / 3


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("missing", "blocks.1.1.weight"),
        ("surplus", "blocks.1.1.weights"),
        ("misshapen", "blocks.1.1.weight"),
        ("float64", "blocks.1.1.weight"),
        ("surplus of a feature extractor", "head.weights"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, key):
    arrays = proofs.weights(GELU)
    if change == "missing":
        del arrays[key]
    elif change == "misshapen":
        arrays[key] = arrays[key][:-1]
    elif change == "float64":
        arrays[key] = arrays[key].astype(np.float64)
    else:
        arrays[key] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match=f"{key}[ :;.]"):
        keras_tiny.built(GELU, "fe" if key == "head.weights" else "classification", arrays=arrays)


# --- the gate


def candidate(name, model):
    return Candidate(model, FAMILIES[keras_tiny.family(name)].layout.KERAS_NAMES)


def test_honest_model_passes_and_is_as_before_once_it_was_compared():
    """The Mixer's file is in `test_backends`."""
    here, proof = candidate(GELU, keras_tiny.built(GELU)), proofs.proof(GELU)
    before = here.variables()
    Report(proof.compare(here)).require()
    here.gradients(proof.inputs["noise"], training=True)
    for key, value in here.variables().items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def test_variance_is_over_n_here_and_over_n_minus_1_in_pytorch():
    """If Keras moves its statistics by what PyTorch does one day, `with_keras_variances` is to go."""
    here = candidate(GELU, keras_tiny.built(GELU))
    here.expected_statistics = lambda statistics, before, count: dict(statistics)
    failed = [row for row in proofs.proof(GELU).compare_training(here) if not row.passed]
    assert failed
    assert all(row.output == "moving statistics" and row.variable.endswith("running_var") for row in failed)


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
        super().__init__(saving.ACTIVATIONS["gelu_tanh"] if activation == "gelu" else activation, **settings)


def without_residual(name):
    return lambda both: both[1]


def one_array(key, change):
    def plant(arrays):
        arrays[key] = np.ascontiguousarray(change(arrays[key]))

    return plant


FAULTS = {
    (GELU, "tanh for erf"): Fault(patches=((convmixer.layers, "Activation", OtherGelu),)),
    (MIXER, "erf for tanh"): Fault({"activation": "gelu"}),
    (GELU, "another epsilon"): Fault({"batch_norm_epsilon": 2e-5}),
    (MIXER, "another epsilon"): Fault({"layer_norm_epsilon": 2e-6}),
    (RELU, "Keras's own momentum"): Fault(patches=((convmixer, "MOMENTUM", 0.99),), training=True),
    **{(name, "height and width swapped"): Fault(turned=True) for name in (RELU, MIXER)},
    **{
        (name, "residuals dropped"): Fault(patches=((keras.layers, "Add", without_residual),)) for name in (GELU, MIXER)
    },
    (GELU, "depthwise kernel transposed"): Fault(
        weights=one_array("blocks.1.0.fn.0.weight", lambda a: a.swapaxes(2, 3))
    ),
    (RELU, "pointwise kernel transposed"): Fault(weights=one_array("blocks.1.1.weight", lambda a: a.swapaxes(0, 1))),
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
    return candidate(name, model)


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_fault_fails_the_gate(name, fault):
    planted = FAULTS[name, fault]
    rows = proofs.proof(name).compare(faulty(name, planted), training=planted.training)
    if not planted.weights:  # a changed array shows by itself
        assert all(row.passed for row in rows if row.output == "variables")
    failed = proofs.failed(rows)
    assert failed == {"moving statistics"} if planted.training else "logits" in failed, Report(rows).table()
    assert max(row.ratio for row in rows if row.ratio is not None) > 2 * RATIO
