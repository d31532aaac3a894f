"""Honest files of every kind read to the same arrays, and what the user must know is noted."""

import dataclasses
import itertools

import numpy as np
import pytest
import tiny
import torch
from own_checkpoints import assert_same, custom, load, of_classes, saved, state_dict, timm_mixer, training_file
from safetensors.torch import save_file

from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.variants import get_variant, own_variant

TINY, TINY_MIXER = get_variant("convmixer_tiny"), get_variant("mixer_tiny")


def write(path, arrays, kind):
    """The arrays in a file of a kind; what is no tensor yet becomes one, or the reverse."""
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **{key: np.asarray(array) for key, array in arrays.items()})
        return path
    tensors = {key: torch.as_tensor(array) for key, array in arrays.items()}
    if kind == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind != "legacy")
    return path


@pytest.mark.parametrize("kind", ["as it is", "legacy", "safetensors"])
@pytest.mark.parametrize("layout", tiny.LAYOUTS)
@pytest.mark.parametrize("name", tiny.NAMES)
def test_convmixer_of_either_layout_reads_to_the_same_arrays(tmp_path, name, layout, kind):
    path = tiny.GOLDEN / f"{name}.{layout}.pth.tar"
    if kind != "as it is":
        content = torch.load(path, weights_only=True)
        path = write(tmp_path / "own", content.get("state_dict", content), kind)
    found = tiny.read(path, get_variant(name))
    assert_same(found, {key: value.numpy() for key, value in state_dict(name).items()})
    assert {key: array.shape for key, array in found.items()} == get_variant(name).shapes


@pytest.mark.parametrize("names", ["flax", "timm"])
@pytest.mark.parametrize("kind", ["npz", "pth", "safetensors"])
def test_mixer_of_either_layout_reads_to_flaxs_arrays(tmp_path, kind, names):
    with np.load(tiny.GOLDEN / "mixer_tiny.npz") as file:
        flax = dict(file)
    path = write(tmp_path / "own", flax if names == "flax" else timm_mixer(), kind)
    official, own = (
        load(dataclasses.replace(custom(path), weights="official"), TINY_MIXER),
        load(custom(path), TINY_MIXER),
    )
    assert_same(official.arrays, flax)
    assert official.notes == ()
    assert own.notes == ()
    activation = "gelu" if names == "timm" else "gelu_tanh"
    assert own.variant.architecture.activation == activation, "timm trains with another GELU"


@pytest.mark.parametrize(("variant", "kind"), [(TINY, "pth"), (TINY, "safetensors"), (TINY_MIXER, "npz")])
def test_features_need_no_head(tmp_path, variant, kind):
    weights = state_dict() if variant is TINY else tiny.mixer_weights()
    head = FAMILIES[variant.family].head_keys
    path = write(tmp_path / "own", {key: value for key, value in weights.items() if key not in head}, kind)
    assert load(custom(path), variant, "fe").arrays.keys() == weights.keys() - set(head)
    with pytest.raises(CheckpointError, match=f"(?s)2 missing: {'; '.join(head)}.*set head to 'fe'"):
        load(custom(path), variant)
    whole = write(tmp_path / "whole", weights, kind)
    assert load(custom(whole), variant, "fe").arrays.keys() == weights.keys() - set(head)


LOSS = {"float16": "without loss", "bfloat16": "without loss", "float64": "loses digits"}


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*itertools.product(("pth", "safetensors"), LOSS), ("npz", "float16"), ("npz", "float64")],  # NumPy has no bfloat16
)
def test_other_precision_is_converted_and_noted(tmp_path, dtype, kind):
    variant, weights = TINY, state_dict()
    if kind == "npz":
        variant, weights = TINY_MIXER, {key: torch.tensor(array) for key, array in tiny.mixer_weights().items()}
    weights = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in weights.items()}
    loaded = load(custom(write(tmp_path / "own", weights, kind)), variant)
    assert_same(loaded.arrays, {k: v.float().numpy() if v.is_floating_point() else v for k, v in weights.items()})
    (note,) = loaded.notes
    assert dtype in note
    assert LOSS[dtype] in note


# Classes of one's own.


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_local_file_has_its_own_number_of_classes(tmp_path, count):
    loaded = load(custom(saved(tmp_path, of_classes(count))), TINY)
    assert loaded.variant.architecture == dataclasses.replace(TINY.architecture, classes=count)
    assert loaded.arrays["head.weight"].shape == (count, 32)
    assert loaded.variant.parameters == TINY.parameters + (count - 10) * 33
    head = {"head/kernel": np.ones((32, count), np.float32), "head/bias": np.ones(count, np.float32)}
    path = write(tmp_path / "own", tiny.mixer_weights() | head, "npz")
    assert load(custom(path), TINY_MIXER).variant.architecture.classes == count


@pytest.mark.parametrize("weights", ["official", "synthetic"])
def test_official_and_synthetic_files_have_the_variants_classes(tmp_path, weights):
    checkpoint = dataclasses.replace(custom(saved(tmp_path, of_classes(3))), weights=weights)
    with pytest.raises(CheckpointError, match=r"misshapen: head\.weight: expected \[10, 32\], found \[3, 32\]"):
        load(checkpoint, TINY)


@pytest.mark.parametrize(("shape", "bias"), [((3, 31), 3), ((3, 32), 4), ((3, 32), 0)])
def test_head_that_fits_no_model_is_refused(tmp_path, shape, bias):
    content = state_dict() | {"head.weight": torch.zeros(shape), "head.bias": torch.zeros(bias)}
    with pytest.raises(CheckpointError, match=r"misshapen: head\."):
        load(custom(saved(tmp_path, content)), TINY)


def test_nothing_of_the_official_weights_is_claimed_for_others():
    known = get_variant("convmixer_768_32")
    row = own_variant("convmixer", architecture=known.architecture, preprocessing=known.preprocessing)
    assert (row.labels, row.top1) == (None, None)
    assert "ImageNet" not in row.trained_on + row.top1_source


# What trainers leave beside the weights, and around their names.


def prefixed(prefix):
    return {prefix + key: value for key, value in state_dict().items()}


TRAINERS = {
    "timm": (lambda: training_file(state_dict_ema=None), None),
    "DeiT": (lambda: {"model": state_dict()}, None),
    "twice": (lambda: {"epoch": 3, "optimizer": {"lr": 0.1}, "model": {"state_dict": state_dict()}}, None),
    "Lightning, weighted": (
        lambda: {"state_dict": prefixed("model.") | {"criterion.weight": torch.ones(10)}, "hyper_parameters": {}},
        "criterion.weight",
    ),
    "AveragedModel": (lambda: {"n_averaged": torch.tensor(3)} | prefixed("module."), "n_averaged"),
    "PyTorch's tutorial": (lambda: {"model": "convmixer", "model_state_dict": state_dict(), "loss": 0.1}, None),
    "parallel and compiled": (lambda: prefixed("module._orig_mod."), None),
    "parameters": (
        lambda: {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state_dict().items()},
        None,
    ),
    "surplus entries": (
        lambda: state_dict() | {"fc_aux.weight": torch.zeros(3), "norm.foo": torch.zeros(2)},
        "2 entries are no part of the model and were left out: fc_aux.weight; norm.foo",
    ),
}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_file_of_a_trainer_loads_and_what_is_left_out_is_noted(tmp_path, trainer):
    content, left_out = TRAINERS[trainer]
    loaded = load(custom(saved(tmp_path, content())), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny"))
    assert [left_out in note for note in loaded.notes] == [True] * bool(left_out)


def test_surplus_entries_of_an_npz_are_left_out(tmp_path):
    path = write(tmp_path / "own", tiny.mixer_weights() | {"norm.foo": np.zeros(3)}, "npz")
    (note,) = load(custom(path), TINY_MIXER).notes
    assert "norm.foo" in note


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("trainer", ["timm", "torchvision"])
def test_moving_average_is_taken_if_asked_for_and_else_noted(tmp_path, trainer, zipped):
    content, key = training_file(), "state_dict_ema"
    average = {name: value.numpy() for name, value in content[key].items()}
    if trainer == "torchvision":
        renamed = {f"module.{name}": value for name, value in content[key].items()}
        content, key = {"model": state_dict(), "model_ema": {"n_averaged": torch.tensor(3)} | renamed}, "model_ema"
    path = saved(tmp_path, content, _use_new_zipfile_serialization=zipped)
    loaded = load(custom(path), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny"))
    assert key in loaded.notes[0]
    assert "use_ema" in loaded.notes[0]
    loaded = load(custom(path), TINY, use_ema=True)
    assert_same(loaded.arrays, average)
    assert key in loaded.notes[0]


def test_use_ema_without_an_average_names_what_is_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"use_ema is True, and the file has no moving average.*state_dict"):
        load(custom(saved(tmp_path, training_file(state_dict_ema=None))), TINY, use_ema=True)
    path = write(tmp_path / "own.safetensors", state_dict(), "safetensors")
    with pytest.raises(CheckpointError, match="use_ema is True"):
        load(custom(path), TINY, use_ema=True)


def test_average_of_a_mixer_is_noted_and_taken(tmp_path):
    tensors = {key: torch.from_numpy(value) for key, value in timm_mixer().items()}
    average = {key: value + 0.5 for key, value in tensors.items()}
    path = saved(tmp_path, {"state_dict": tensors, "state_dict_ema": average})
    (note,) = load(custom(path), TINY_MIXER).notes
    assert "state_dict_ema" in note
    bias = load(custom(path), TINY_MIXER, use_ema=True).arrays["head/bias"]
    np.testing.assert_array_equal(bias, average["head.bias"])


@pytest.mark.parametrize("missing", [True, False])
def test_counters_may_be_missing_or_of_another_type(tmp_path, missing):
    """float32 is what timm's avg_checkpoints.py makes of them."""
    counters = [key for key in state_dict() if key.endswith("num_batches_tracked")]
    content = {key: value.float() for key, value in state_dict().items() if not (missing and key in counters)}
    loaded = load(custom(saved(tmp_path, content)), TINY)
    assert_same(loaded.arrays, tiny.weights("convmixer_tiny") | {key: np.zeros((), np.int64) for key in counters})
    (note,) = loaded.notes
    assert f"{len(counters)} counters of batches" in note
