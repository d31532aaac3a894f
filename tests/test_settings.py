"""A conversion's parameters: each that makes no sense is an error that names it, before anything is made."""

import pytest

from utils.errors import ParameterError
from utils.families.variants import get_variant
from utils.settings import Settings, formats_of, preprocessing_for


def check(family, **changed):
    good = {"variant": f"{family}_tiny", "head": "fe", "checkpoint": "synthetic", "image_size": 48, "seed": 0}
    return Settings(**good | {"output_dir": "exports"} | changed).check(family).name


def test_good_parameters_give_the_variant():
    assert [check(family) for family in ("convmixer", "mixer")] == ["convmixer_tiny", "mixer_tiny"]


@pytest.mark.parametrize(
    ("family", "wrong", "message"),
    [
        ("convmixer", {"labels": "nowhere.txt", "head": "classification"}, "labels is 'nowhere.txt'"),
        ("convmixer", {"labels": 3, "head": "classification"}, "labels is 3"),
        ("convmixer", {"labels": "names.txt"}, "has no classes"),
        ("convmixer", {"use_ema": True}, "use_ema is True"),
        ("convmixer", {"use_ema": "yes"}, "use_ema is 'yes'"),
        ("convmixer", {"variant": "convmixer_999"}, "convmixer_768_32"),
        ("convmixer", {"variant": "mixer_b16_sam"}, r"conversion_mlpmixer\.ipynb"),
        ("convmixer", {"head": "segmentation"}, "head is 'segmentation'"),
        ("convmixer", {"checkpoint": "nowhere.pth.tar"}, "no such file"),
        ("convmixer", {"image_size": 50}, r"not a multiple.* Use 48 or 52, or 0 for any height and width"),
        ("convmixer", {"image_size": -4}, "image_size is -4"),
        ("convmixer", {"seed": 1.5}, "seed is 1.5"),
        ("convmixer", {"output_dir": ""}, "output_dir"),
        ("convmixer", {"output_dir": "~nosuchuser/x"}, "'~nosuchuser/x' is no path on this machine"),
        ("convmixer", {"output_dir": "a\0b"}, "is no path on this machine"),
        ("convmixer", {"checkpoint": "a" * 300}, "is no path on this machine"),
        ("mixer", {"variant": "convmixer_768_32"}, r"conversion_convmixer\.ipynb"),
        ("mixer", {"variant": "mixer_b16_i1k", "image_size": 256}, "trained on: 224"),
        ("mixer", {"image_size": 0}, "trained on: 48"),
        ("mixer", {"operations": "onnx"}, "operations is 'onnx'"),
        ("convmixer", {"operations": "plain"}, "ConvMixer has only xla"),
        ("mixer", {"formats": "saved_model, onnx"}, r"models of the family mixer have no \.onnx.*any of keras$"),
        (
            "convmixer",
            {"formats": "onnx, onnx"},
            "formats is 'onnx, onnx'; expected 'saved_model', and behind commas any of keras, onnx",
        ),
        ("mixer", {"checkpoint": "official"}, "without an official file"),
        ("mixer", {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_parameter_is_named(family, wrong, message):
    with pytest.raises(ParameterError, match=message):
        check(family, **wrong)


@pytest.mark.parametrize(("name", "size", "resize"), [("convmixer_768_32", 448, 466), ("convmixer_tiny", 72, 75)])
def test_another_size_keeps_the_crop_fraction(name, size, resize):
    variant = get_variant(name)
    found = preprocessing_for(variant, size)
    assert (found.crop, found.resize, found.mean) == (size, resize, variant.preprocessing.mean)
    assert preprocessing_for(variant, 0) == preprocessing_for(variant, variant.image_size) == variant.preprocessing


def test_the_saved_model_goes_without_saying():
    assert formats_of("onnx, keras") == formats_of("saved_model, onnx, keras") == ("saved_model", "onnx", "keras")
    with pytest.raises(ParameterError, match="formats is None"):
        formats_of(None)
