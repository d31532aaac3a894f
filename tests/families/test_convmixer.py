"""The PyTorch source model against what the upstream definition computed, and its strictness."""

import copy
import warnings

import numpy as np
import own_models
import pytest
import tiny
import torch

from utils.errors import CheckpointError, ParameterError
from utils.families.convmixer import source as convmixer, synthetic

# Same framework, same operations: only the order of summation inside PyTorch's kernels can differ.
TOLERANCE = 1e-6


@pytest.mark.parametrize("name", tiny.NAMES)
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_outputs_equal_the_upstream_definition_and_float64_is_what_they_round(name, head, output):
    golden = tiny.expected(name)
    found = convmixer.as_nhwc(tiny.source(name, head))(golden["inputs"].copy())
    assert tiny.relative_error(found, golden[output]) <= TOLERANCE
    exact = convmixer.ReferenceModel(tiny.source(name, head)).outputs(golden["inputs"].copy(), "float64")
    assert exact.keys() == {"features", output}
    for each, values in exact.items():
        assert tiny.relative_error(values, golden[each]) <= TOLERANCE
        assert (values != values.astype(np.float32)).any(), "computed in float32, and called float64"


@pytest.mark.parametrize("name", tiny.NAMES)
def test_gradients_equal_the_upstream_definition_and_training_leaves_the_model_as_it_was(name):
    model, golden = tiny.source(name), tiny.expected(name)
    before = copy.deepcopy(model.state_dict())
    source, inputs = convmixer.ReferenceModel(model), golden["inputs"].copy()
    rounded, exact = (source.gradients(inputs, dtype) for dtype in ("float32", "float64"))
    for weight, gradient in (("stem.0.weight", "grad_stem_weight"), ("head.weight", "grad_head_weight")):
        # Upstream's loss is sum(logits ** 2), not divided by the batch of 4.
        assert tiny.relative_l2(4 * rounded[weight], golden[gradient]) <= TOLERANCE
    for key, gradient in rounded.items():
        assert (exact[key].dtype, gradient.dtype) == (np.float64, np.float32)
        assert tiny.relative_l2(gradient, exact[key]) < 1e-5
    for dtype in ("float32", "float64"):
        outputs, statistics = source.training_pass(inputs, dtype)
        assert {array.dtype for array in (*outputs.values(), *statistics.values())} == {np.dtype(dtype)}
    assert not any(module.training for module in model.modules())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("head", tiny.OUTPUTS)
@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"head.scale": np.ones(1, np.float32)}, r"head\.scale"),
        ({"blocks.2.3.running_var": None}, r"blocks\.2\.3\.running_var"),
        ({"stem.0.bias": np.ones(31, np.float32)}, r"(?s)stem\.0\.bias.*\[31\].*\[32\]"),
    ],
    ids=["surplus", "missing", "misshapen"],
)
def test_entry_that_does_not_fit_is_named(head, changes, named):
    weights = {key: array for key, array in (tiny.weights("convmixer_tiny") | changes).items() if array is not None}
    with pytest.raises(CheckpointError, match=named):
        convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), weights, head)


def test_unknown_head_is_refused():
    with pytest.raises(ParameterError, match="classification, fe"):
        convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), tiny.weights("convmixer_tiny"), "features")


def test_read_only_weights_are_copied_and_stay_as_they_are():
    weights = tiny.weights("convmixer_tiny")
    for array in weights.values():
        array.flags.writeable = False
    model = convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), weights)
    with torch.no_grad():
        model.head.weight.zero_()
    assert np.abs(weights["head.weight"]).max() > 0


def test_an_even_kernel_runs_without_a_word():
    architecture = own_models.own("convmixer", kernel_size=4).architecture
    weights = dict(synthetic.arrays(architecture, 0))
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # PyTorch has said it once, maybe
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            convmixer.as_nhwc(convmixer.build_convmixer(architecture, weights))(np.zeros((1, 8, 8, 3), np.float32))
    finally:
        torch.set_warn_always(always)
