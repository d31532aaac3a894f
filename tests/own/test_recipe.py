"""How a model was trained: what is given wins over what the file says, and that over what is assumed."""

import argparse
from functools import partial

import pytest
import torch

from own import definitions
from own.definitions import convmixer, flax_mixer, mixer, replace, under
from own.opening import assert_computes, opened
from utils.conversion import Conversion
from utils.errors import CheckpointError, ConversionError
from utils.families import FAMILIES
from utils.families.variants import Preprocessing
from utils.settings import Settings

FIELDS = ("activation", "epsilon", "image_size", "crop_pct", "interpolation", "mean", "std")
TOLD = {"mean": (0.5, 0.4, 0.3), "std": [0.2, 0.2, 0.4], "interpolation": "bilinear", "crop_pct": 0.9, "img_size": 48,
        "model": "convmixer_768_32", "lr": 1e-3, "log": None}  # fmt: skip
RELU = partial(convmixer, definitions.TIMM, activation="relu")


def with_args(tmp_path, args, make=RELU):
    own = make()
    return own, replace(own, content=under("state_dict", args=args)(own.content)).save(tmp_path, "pt")


def origins(conversion):
    return {name: conversion.variant.origins[name] for name in FIELDS}


@pytest.mark.parametrize("kind", [argparse.Namespace, dict])
def test_what_the_trainer_says_wins_over_what_is_assumed(tmp_path, kind):
    own, path = with_args(tmp_path, kind(**TOLD))
    conversion = opened(path)
    assert_computes(conversion, own.inputs, own.outputs)
    assert origins(conversion) == dict.fromkeys(FIELDS, "file")
    told = Preprocessing(53, 48, (127.5, 102, 76.5), (51, 51, 102), "bilinear")
    assert (conversion.preprocessing, conversion.image_size) == (told, 48)


def test_what_is_given_wins_over_what_the_trainer_says(tmp_path):
    given = {"activation": "gelu_tanh", "epsilon": 1e-3, "image_size": 32, "crop_pct": 1.0, "interpolation": "bicubic",
             "mean": "0.1, 0.2, 0.3", "std": "1,1,1"}  # fmt: skip
    conversion = opened(with_args(tmp_path, argparse.Namespace(**TOLD))[1], **given)
    architecture = conversion.variant.architecture
    assert (architecture.activation, architecture.batch_norm_epsilon) == ("gelu_tanh", 1e-3)
    assert origins(conversion) == dict.fromkeys(FIELDS, "given")
    assert conversion.preprocessing == Preprocessing(32, 32, (25.5, 51, 76.5), (255, 255, 255), "bicubic")


def test_each_field_has_an_origin_of_its_own(tmp_path):
    args = argparse.Namespace(mean=[0.5], std=None, interpolation="", crop_pct=None, img_size=40)
    conversion = opened(with_args(tmp_path, args)[1], crop_pct=0.5)
    expected = dict.fromkeys(FIELDS, "assumed") | {"mean": "file", "image_size": "file", "crop_pct": "given"}
    assert origins(conversion) == expected
    # timm takes one number for all channels.
    assert conversion.preprocessing == Preprocessing(80, 40, (127.5,) * 3, FAMILIES["convmixer"].std)


LAYOUTS = {
    "paper": (convmixer, "pt", "gelu", 1e-5),
    "timm": (partial(convmixer, definitions.TIMM), "safetensors", "gelu", 1e-5),
    "own Mixer": (partial(mixer, definitions.PRE_NORM), "pt", "gelu", 1e-5),
    "package's Mixer": (partial(mixer, definitions.package), "pt", "gelu", 1e-5),
    "timm's Mixer": (partial(mixer, definitions.TIMM_MIXER), "safetensors", "gelu", 1e-6),
    "Flax": (flax_mixer, "npz", "gelu_tanh", 1e-6),
    "Flax's msgpack": (partial(flax_mixer, definitions.flax_state), "msgpack", "gelu_tanh", 1e-6),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_nobody_says_is_the_layouts_own_and_assumed(tmp_path, layout):
    make, kind, activation, epsilon = LAYOUTS[layout]
    conversion = opened(make().save(tmp_path, kind))
    variant, family = conversion.variant, conversion.family
    assert variant.architecture.activation == activation
    assert getattr(variant.architecture, variant.architecture.EPSILON) == epsilon
    size, resize = (224, 233) if family.name == "convmixer" else (16, 18)
    image_size = "assumed" if family.name == "convmixer" else "file"  # a Mixer's tokens tell
    assert origins(conversion) == dict.fromkeys(FIELDS, "assumed") | {"image_size": image_size}
    assert conversion.preprocessing == Preprocessing(resize, size, family.mean, family.std)
    assert conversion.image_size == size


def test_row_of_relu_is_assumed_to_have_it_under_any_names(tmp_path):
    sizes = {"dim": 24, "depth": 2, "kernel_size": 7, "patch_size": 6, "classes": 7}
    own = convmixer(definitions.UNITS, activation="relu", **sizes)
    conversion = opened(own.save(tmp_path, "pt"), "convmixer_tiny_relu")
    assert_computes(conversion, own.inputs, own.outputs)
    assert conversion.variant.origins["activation"] == "assumed"
    conversion = opened(own.save(tmp_path, "pt"), "convmixer_tiny_relu", activation="gelu")
    assert conversion.variant.architecture.activation == "gelu"
    assert conversion.variant.origins["activation"] == "given"


@pytest.mark.parametrize(("told", "crop"), [({}, 224), ({"img_size": 48}, 48)])
def test_any_height_and_width_leaves_the_photographs_size_to_the_file(tmp_path, told, crop):
    conversion = opened(with_args(tmp_path, argparse.Namespace(**told))[1], image_size=0)
    assert (conversion.image_size, conversion.preprocessing.crop) == (0, crop)
    assert conversion.variant.origins["image_size"] == ("file" if told else "assumed")


@pytest.mark.parametrize("channels", [1, 3, 10])
def test_normalisation_has_a_number_of_each_channel(tmp_path, channels):
    path = convmixer(channels=channels).save(tmp_path, "pt")
    assert len(opened(path).preprocessing.mean) == channels
    given = ",".join(["0.5"] * channels)
    assert opened(path, mean=given, std=given).preprocessing.std == (127.5,) * channels
    with pytest.raises(ConversionError, match="mean"):
        opened(path, mean=given + ",0.5")


def test_image_size_that_a_mixers_tokens_do_not_fit_is_refused(tmp_path):
    path = mixer(definitions.PRE_NORM).save(tmp_path, "pt")
    assert opened(path, image_size=16).image_size == 16
    for size in (32, 0):
        with pytest.raises(ConversionError, match="image_size"):
            opened(path, image_size=size)


def test_thousand_classes_have_no_names_but_those_that_are_given(tmp_path):
    path = convmixer(dim=4, depth=1, classes=1000).save(tmp_path, "pt")
    assert not opened(path).labels
    (tmp_path / "names.txt").write_text("\n".join(f"kind {i}" for i in range(1000)), encoding="utf-8")
    assert opened(path, labels=str(tmp_path / "names.txt")).labels[999].name == "kind 999"


SENSELESS = {
    "mean": [[float("nan")] * 3, [float("inf")] * 3, [10**400] * 3, [0.5] * 10**6, "imagenet", {"r": 1},
             torch.full((3,), torch.nan), 7],
    "std": [[0, 0, 0], [-1, 1, 1], [None] * 3, [1e-320] * 3],
    "interpolation": ["random", 3, ["bicubic"]],
    "crop_pct": [0, -1, float("nan"), 1e-300, 2.5, "0.9", [0.9]],
    "img_size": [0, -3, 10**12, 10**400, "224", [48, 32], 0.5, True],
    "model": [None, 7, "resnet50", "x" * 10**6, ["convmixer_768_32"]],
}  # fmt: skip


@pytest.mark.parametrize("field", SENSELESS)
def test_what_makes_no_sense_is_assumed_or_refused(tmp_path, field):
    own = RELU()
    for value in SENSELESS[field]:
        content = under("state_dict", args=argparse.Namespace(**TOLD | {field: value}))(own.content)
        try:
            conversion = opened(replace(own, content=content).save(tmp_path, "pt"))
        except ConversionError:
            continue
        conversion.preprocessing.check()
        assert 0 < conversion.image_size <= conversion.preprocessing.resize <= 10**5, value
        assert len(conversion.preprocessing.std) == 3, value
        if field in ("mean", "std", "interpolation"):
            assert conversion.variant.origins[field] == "assumed", value


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_other_pooling_that_the_trainer_tells_is_refused(tmp_path, pool):
    with pytest.raises(CheckpointError, match=f"'{pool}'"):
        opened(with_args(tmp_path, argparse.Namespace(gp=pool))[1])
    opened(with_args(tmp_path, argparse.Namespace(gp="avg"))[1])


def test_model_kwargs_leave_open_what_the_name_of_a_model_would_tell(tmp_path):
    args = {"model": TOLD["model"], "model_kwargs": {"act_layer": "silu"}}
    assert origins(opened(with_args(tmp_path, argparse.Namespace(**args))[1]))["activation"] == "assumed"


def test_size_that_contradicts_the_tokens_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="40 pixels"):
        opened(with_args(tmp_path, argparse.Namespace(img_size=40), mixer)[1])


def test_images_smaller_than_a_patch_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="image_size"):
        opened(with_args(tmp_path, argparse.Namespace())[1], image_size=1)


def test_channels_and_patch_of_a_dense_embedding_are_said_to_be_assumed(tmp_path):
    notes = opened(mixer(definitions.package).save(tmp_path, "pt")).notes
    assert any("1.weight" in note and "3 channels" in note for note in notes)


def test_another_number_of_labels_is_told_before_anything_is_loaded(tmp_path):
    _, path = with_args(tmp_path, argparse.Namespace())
    (tmp_path / "names.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(ConversionError, match="names 2 classes"):
        Conversion(Settings("own", checkpoint=str(path), labels=str(tmp_path / "names.txt"))).check()
