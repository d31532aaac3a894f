"""A conversion's parameters: each that makes no sense is an error that names it, before anything is made."""

import pytest

from utils.errors import ParameterError
from utils.models.variants import get_variant
from utils.notebook.parameters import check_conversion, preprocessing_for

GOOD = {
    "convmixer": {"variant": "convmixer_tiny", "head": "fe", "checkpoint": "synthetic", "image_size": 48},
    "mixer": {"variant": "mixer_tiny", "head": "fe", "checkpoint": "synthetic", "image_size": 48},
}


def check(family, tmp_path, **wrong):
    return check_conversion(family, **{"output_dir": str(tmp_path), "seed": 0} | GOOD[family] | wrong)


@pytest.mark.parametrize("family", GOOD)
def test_good_parameters_give_the_variant(family, tmp_path):
    assert check(family, tmp_path).name == GOOD[family]["variant"]


@pytest.mark.parametrize(
    ("family", "wrong", "message"),
    [
        ("convmixer", {"labels": "nowhere.txt"}, "labels is 'nowhere.txt'"),
        ("convmixer", {"use_ema": True}, "use_ema is True"),
        ("convmixer", {"variant": "convmixer_999"}, "convmixer_768_32"),
        ("convmixer", {"variant": "mixer_b16_sam"}, r"conversion_mlpmixer\.ipynb"),
        ("convmixer", {"head": "segmentation"}, "head is 'segmentation'"),
        ("convmixer", {"checkpoint": "nowhere.pth.tar"}, "no such file"),
        ("convmixer", {"image_size": 50}, "not a multiple"),
        ("convmixer", {"image_size": -4}, "image_size is -4"),
        ("convmixer", {"seed": 1.5}, "seed is 1.5"),
        ("convmixer", {"output_dir": ""}, "output_dir"),
        ("mixer", {"variant": "mixer_b16_sam_i21k"}, "mixer_b16_sam"),
        ("mixer", {"variant": "convmixer_768_32"}, r"conversion_convmixer\.ipynb"),
        ("mixer", {"variant": "mixer_b16_i1k", "image_size": 256}, "trained on: 224"),
        ("mixer", {"image_size": 0}, "trained on: 48"),
        ("mixer", {"operations": "onnx"}, "operations is 'onnx'"),
        ("mixer", {"head": "segmentation"}, "head is 'segmentation'"),
        ("mixer", {"checkpoint": "nowhere.npz"}, "no such file"),
        ("mixer", {"checkpoint": "official"}, "without an official file"),
        ("mixer", {"seed": -1}, "seed is -1"),
    ],
)
def test_bad_parameter_is_named(family, wrong, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        check(family, tmp_path, **wrong)


@pytest.mark.parametrize(("name", "size", "resize"), [("convmixer_768_32", 448, 466), ("convmixer_tiny", 72, 75)])
def test_another_size_keeps_the_crop_fraction(name, size, resize):
    variant = get_variant(name)
    found = preprocessing_for(variant, size)
    assert (found.crop, found.resize, found.mean) == (size, resize, variant.preprocessing.mean)
    assert preprocessing_for(variant, 0) == preprocessing_for(variant, variant.image_size) == variant.preprocessing
