"""The native models: Keras's own layers, the checkpoint's names, every array in its place, none left over."""

import json
from pathlib import Path

import keras
import keras_tiny
import numpy as np
import proofs
import pytest
import tiny
from keras_tiny import GELU, MIXER, NAMES, RELU

from utils.errors import CheckpointError
from utils.families import FAMILIES
from utils.families.variants import VARIANTS
from utils.keras_models.archive import KNOWN, _classes

HEADS = ("classification", "fe")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", NAMES)
def test_gives_what_upstream_gives(name, head):
    expected = tiny.expected(name)
    found = keras_tiny.built(name, head)(expected["inputs"], training=False)
    assert tiny.relative_l2(found, expected["logits" if head == "classification" else "features"]) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_is_made_of_keras_s_own_layers_and_nothing_that_runs_code(name):
    model = keras_tiny.built(name)
    assert type(model) is keras.Model or type(model).__module__ == "keras.src.models.functional"
    assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
    found = {(module, each) for module, each in _classes(json.loads(model.to_json()))}
    assert all(each in KNOWN.get(module, ()) for module, each in found)
    assert "Lambda" not in {each for names in KNOWN.values() for each in names}


@pytest.mark.parametrize("name", NAMES)
def test_variables_are_those_of_the_checkpoint_in_the_order_of_the_data(name):
    model, keys = keras_tiny.built(name), FAMILIES[keras_tiny.family(name)].layout.KERAS_NAMES
    found = [keys.key_of(variable.path) for variable in model.variables]
    expected = [key for key in proofs.weights(name) if not key.endswith("num_batches_tracked")]
    assert sorted(found) == sorted(expected)
    # A Mixer's checkpoint names both norms of a block before its mixings.
    parts = ("LayerNorm_0", "token_mixing", "LayerNorm_1", "channel_mixing")
    if name == MIXER:
        blocks = [[key for key in expected if f"MixerBlock_{i}/{part}/" in key] for i in range(2) for part in parts]
        expected = [*expected[:2], *(key for block in blocks for key in block), *expected[-4:]]
    trainable = [keys.key_of(variable.path) for variable in model.trainable_variables]
    assert trainable == [key for key in expected if not key.endswith(("running_mean", "running_var"))]


@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if v.testing], ids=lambda v: v.name)
def test_count_of_parameters_is_the_table_s(variant):
    model = keras_tiny.built(variant.name)
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == variant.parameters


@pytest.mark.parametrize("name", [GELU, MIXER])
@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen", "float64", "head of a feature extractor"])
def test_arrays_that_do_not_fit_are_named(name, change):
    arrays, head = proofs.weights(name), "classification"
    key = "blocks.1.1.weight" if name == GELU else "MixerBlock_1/channel_mixing/Dense_0/kernel"
    if change == "missing":
        del arrays[key]
    elif change == "surplus":
        arrays[key := f"{key}s"] = np.zeros(3, np.float32)
    elif change == "misshapen":
        arrays[key] = arrays[key][:-1]
    elif change == "float64":
        arrays[key] = arrays[key].astype(np.float64)
    else:
        head, key = "fe", "head.weights" if name == GELU else "head/kernels"
        arrays[key] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError, match=f"{key}[ :;.]"):
        keras_tiny.built(name, head, arrays=arrays)


@pytest.mark.parametrize("name", [GELU, RELU])
def test_convmixer_takes_any_size_or_the_one_that_was_asked_for(name):
    assert keras_tiny.built(name).input_shape == (None, None, None, 3)
    fixed = keras_tiny.built(name, image_size=48)
    assert fixed.input_shape == (None, 48, 48, 3)
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 3), np.float32)
    np.testing.assert_array_equal(fixed(images), keras_tiny.built(name)(images))


def test_mixer_takes_the_size_that_its_tokens_were_trained_for():
    assert keras_tiny.built(MIXER).input_shape == (None, 48, 48, 3)


def test_a_model_can_be_trained_by_fit():
    """The head alone would do, but a ConvMixer's BatchNorm is to move too, which a `TFSMLayer` does not let it."""
    backbone = keras_tiny.built(GELU, "fe")
    model = keras.Sequential([backbone, keras.layers.Dense(3)])
    before = backbone.get_layer("stem-2").moving_mean.numpy()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    images = np.random.default_rng(0).standard_normal((4, 48, 48, 3), np.float32)
    model.fit(images, np.arange(4) % 3, verbose=0)
    assert np.abs(backbone.get_layer("stem-2").moving_mean.numpy() - before).max() > 1e-3


def test_nothing_here_knows_tf_keras():
    for path in (Path(__file__).parents[2] / "utils" / "keras_models").glob("*.py"):
        assert "import tf_keras" not in path.read_text(encoding="utf-8")
