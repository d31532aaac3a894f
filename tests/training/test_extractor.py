"""The extractor to fine-tune: at the size that is trained on; what cannot be one is refused with its reason."""

import shutil

import extractors
import own_models
import pytest

from utils.artefact.opening import Pretrained
from utils.errors import ParameterError
from utils.training.model import open_extractor


@pytest.mark.parametrize(
    ("kind", "image_size", "crop", "resize"),
    [("convmixer", 0, 48, 50), ("convmixer", 48, 48, 50), ("convmixer any size", 64, 64, 67)],
)
def test_preprocessing_is_for_the_size_that_is_trained_at(kind, image_size, crop, resize):
    found = open_extractor(str(extractors.published(kind).folder), image_size)
    assert (found.preprocessing.crop, found.preprocessing.resize) == (crop, resize)


@pytest.mark.parametrize(
    ("kind", "image_size", "said"),
    [
        ("classifier", 0, "is a classifier"),
        ("xla", 64, "takes images of 48 pixels only"),
        ("convmixer any size", 50, "not a multiple of convmixer_tiny's patch"),
    ],
)
def test_what_cannot_be_trained_is_refused(kind, image_size, said):
    with pytest.raises(ParameterError, match=said):
        open_extractor(str(extractors.published(kind).folder), image_size)


def test_one_s_own_model_is_trained_at_any_size_as_it_is_converted(monkeypatch):
    monkeypatch.setattr(Pretrained, "variant", own_models.own("convmixer"))
    found = open_extractor(str(extractors.published("convmixer any size").folder), 50)
    assert found.preprocessing.crop == 50


@pytest.fixture
def native(tmp_path):
    """A folder with a SavedModel, its tarball and its `.keras` file."""
    return shutil.copytree(extractors.published("convmixer native").folder.parent, tmp_path / "exports")


@pytest.mark.parametrize("model", ["convmixer_tiny_fe", "convmixer_tiny_fe.tar.gz", "convmixer_tiny_fe.keras"])
def test_keras_3_finds_the_keras_file_and_the_saved_model_whichever_is_named(native, model):
    found = open_extractor(str(native / model), 0, "keras_3")
    assert found.keras_file == native / "convmixer_tiny_fe.keras"
    assert (found.folder / "saved_model.pb").is_file()
    assert found.units == 32


def test_the_keras_file_is_of_no_use_to_tf_keras_may_be_missing_and_is_not_enough_alone(native, tmp_path):
    assert open_extractor(str(native / "convmixer_tiny_fe"), 0).keras_file is None
    alone = shutil.move(native / "convmixer_tiny_fe.keras", tmp_path)
    assert open_extractor(str(native / "convmixer_tiny_fe"), 0, "keras_3").keras_file is None
    with pytest.raises(ParameterError, match=r"convmixer_tiny_fe\.tar\.gz is needed beside the \.keras file"):
        open_extractor(str(alone), 0, "keras_3")
