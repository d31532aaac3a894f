"""The PyTorch source model against what the upstream definition computed, and its strictness."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from utils.errors import CheckpointError, ParameterError
from utils.models import convmixer

# Same framework, same operations: only the order of summation inside PyTorch's kernels can differ.
TOLERANCE = 1e-6

every_model = pytest.mark.parametrize("name", tiny.NAMES)
every_file = pytest.mark.parametrize("layout", tiny.LAYOUTS)


@every_model
@every_file
@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_outputs_equal_the_upstream_definition(name, layout, head, output):
    found = convmixer.as_nhwc(tiny.source(name, head, layout))(tiny.expected(name)["inputs"].copy())
    assert found.shape == tiny.expected(name)[output].shape
    assert tiny.relative_error(found, tiny.expected(name)[output]) <= TOLERANCE


@every_model
@every_file
def test_gradients_equal_the_upstream_definition(name, layout):
    golden = tiny.expected(name)
    found = convmixer.gradients(tiny.source(name, layout=layout), golden["inputs"].copy())
    for weight, gradient in (("stem.0.weight", "grad_stem_weight"), ("head.weight", "grad_head_weight")):
        # Upstream's loss is sum(logits ** 2), not divided by the batch of 4.
        assert tiny.relative_l2(4 * found[weight], golden[gradient]) <= TOLERANCE


@every_model
def test_gradients_by_the_image_equal_the_upstream_definition(name):
    golden = tiny.expected(name)
    images = torch.tensor(golden["inputs"], requires_grad=True)
    (tiny.source(name)(images.permute(0, 3, 1, 2)) ** 2).sum().backward()
    assert tiny.relative_l2(images.grad.numpy(), golden["grad_inputs"]) <= TOLERANCE


@every_model
def test_gradients_are_given_for_every_parameter_in_its_shape(name):
    model = tiny.source(name)
    found = convmixer.gradients(model, tiny.expected(name)["inputs"].copy())
    assert {key: g.shape for key, g in found.items()} == {key: p.shape for key, p in model.named_parameters()}
    assert all(np.abs(gradient).max() > 0 for gradient in found.values())


@every_model
def test_float64_is_the_truth_that_golden_data_round_and_leaves_the_model_as_it_was(name):
    model, golden = tiny.source(name), tiny.expected(name)
    exact = convmixer.in_float64(model)
    found = convmixer.outputs(exact, golden["inputs"].copy())
    for output, values in found.items():
        assert values.dtype == np.float64
        assert tiny.relative_error(values, golden[output]) <= TOLERANCE
        assert (values != values.astype(np.float32)).any(), "computed in float32, and called float64"
    gradients = convmixer.gradients(exact, golden["inputs"].copy())
    for key, gradient in convmixer.gradients(model, golden["inputs"].copy()).items():
        assert gradients[key].dtype == np.float64
        assert tiny.relative_l2(gradient, gradients[key]) < 1e-5
    found, statistics = convmixer.training_pass(exact, golden["inputs"].copy())
    assert {array.dtype for array in (*found.values(), *statistics.values())} == {np.dtype(np.float64)}
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}


@every_model
def test_probe_makes_variances_small_in_a_copy(name):
    model = tiny.source(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    after = convmixer.with_probe(model).state_dict()
    changed = [key for key, value in before.items() if not after[key].equal(value)]
    blocks = tiny.architecture(name).depth
    assert len(changed) == 2 * (1 + 2 * blocks)  # a scale and a variance of each BatchNorm
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())


def test_batches_of_any_size_and_images_of_any_shape_are_taken():
    predict = convmixer.as_nhwc(tiny.source("convmixer_tiny"))
    for shape in ((1, 48, 48, 3), (5, 32, 64, 3)):
        assert predict(np.ones(shape, np.float32)).shape == (shape[0], 10)


def test_height_and_width_are_not_exchanged_on_the_way_in():
    predict = convmixer.as_nhwc(tiny.source("convmixer_tiny"))
    images = tiny.expected("convmixer_tiny")["inputs"]
    assert np.abs(predict(images.copy()) - predict(images.swapaxes(1, 2).copy())).max() > 1e-3


# --- heads and strictness


@every_model
def test_feature_extractor_drops_the_head_and_nothing_else(name):
    kept = tiny.source(name, "fe").state_dict()
    assert set(tiny.weights(name)) - set(kept) == {"head.weight", "head.bias"}


@pytest.mark.parametrize("head", tiny.OUTPUTS)
def test_head_like_entry_of_another_name_is_refused_for_both_heads(head):
    weights = tiny.weights("convmixer_tiny") | {"head.scale": np.ones(1, np.float32)}
    with pytest.raises(CheckpointError, match=r"head\.scale"):
        convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), weights, head)


@pytest.mark.parametrize("key", ["head.bias", "blocks.2.3.running_var", "stem.0.weight"])
def test_missing_entry_is_named(key):
    weights = tiny.weights("convmixer_tiny")
    del weights[key]
    with pytest.raises(CheckpointError, match=key):
        convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), weights)


def test_misshapen_entry_is_named_with_both_shapes():
    weights = tiny.weights("convmixer_tiny")
    weights["head.weight"] = weights["head.weight"].T.copy()
    with pytest.raises(CheckpointError, match=r"(?s)head\.weight.*\[32, 10\].*\[10, 32\]"):
        convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), weights)


def test_weights_of_another_depth_are_refused():
    deeper = replace(tiny.architecture("convmixer_tiny"), depth=4)
    with pytest.raises(CheckpointError, match=r"blocks\.3\."):
        convmixer.build_convmixer(deeper, tiny.weights("convmixer_tiny"))


@pytest.mark.parametrize("head", ["features", "", None])
def test_unknown_head_is_refused(head):
    with pytest.raises(ParameterError, match="classification, fe"):
        convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), tiny.weights("convmixer_tiny"), head)


def test_activation_is_the_architecture_s():
    golden = tiny.expected("convmixer_tiny")
    relu = replace(tiny.architecture("convmixer_tiny"), activation="relu")
    model = convmixer.build_convmixer(relu, tiny.weights("convmixer_tiny"))
    assert tiny.relative_error(convmixer.as_nhwc(model)(golden["inputs"].copy()), golden["logits"]) > 1e-2


def test_read_only_weights_are_copied_and_stay_as_they_are():
    weights = tiny.weights("convmixer_tiny")
    for array in weights.values():
        array.flags.writeable = False
    model = convmixer.build_convmixer(tiny.architecture("convmixer_tiny"), weights)
    with torch.no_grad():
        model.head.weight.zero_()
    assert np.abs(weights["head.weight"]).max() > 0


# --- train mode


@every_model
def test_training_pass_leaves_the_model_alone(name):
    model = tiny.source(name)
    before = copy.deepcopy(model.state_dict())
    convmixer.training_pass(model, tiny.expected(name)["inputs"].copy())
    assert not any(module.training for module in model.modules())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


@every_model
def test_training_pass_uses_and_keeps_the_statistics_of_the_batch(name):
    model, golden = tiny.source(name), tiny.expected(name)
    found, statistics = convmixer.training_pass(model, golden["inputs"].copy())
    assert tiny.relative_error(found["logits"], golden["logits"]) > 1e-2
    with torch.no_grad():
        stem = model.stem[1](model.stem[0](torch.tensor(golden["inputs"]).permute(0, 3, 1, 2)))
    old = tiny.weights(name)
    for part, of_batch in (("mean", stem.mean((0, 2, 3))), ("var", stem.var((0, 2, 3), unbiased=True))):
        moved = 0.9 * old[f"stem.2.running_{part}"] + 0.1 * of_batch.numpy()  # PyTorch's default momentum
        np.testing.assert_allclose(statistics[f"stem.2.running_{part}"], moved, rtol=1e-5, atol=1e-6)
    assert set(statistics) == {key for key in old if "running_" in key}
