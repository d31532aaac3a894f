"""The extractor to fine-tune: at the size that is trained on; what cannot be one is refused with its reason."""

import json
import shutil
import zipfile

import extractors
import pytest

from utils.errors import PackagingError, ParameterError
from utils.keras_models.archive import read_record
from utils.training.extractor import open_extractor


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
        ("classifier", 0, r"is a classifier .* pass convmixer_tiny_fe"),
        ("xla", 64, r"takes images of 48 pixels only\. Use 0 or 48\."),
        ("convmixer", 64, r"takes images of 48 pixels only\. .* convert a ConvMixer with image_size = 0"),
        ("convmixer any size", 50, r"not a multiple of convmixer_tiny's patch of 4 pixels.* Use 48 or 52"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_what_to_do_instead(kind, image_size, said):
    with pytest.raises(ParameterError, match=said):
        open_extractor(str(extractors.published(kind).folder), image_size)


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


def test_the_keras_file_is_of_no_use_to_tf_keras_and_may_be_missing(native):
    assert open_extractor(str(native / "convmixer_tiny_fe"), 0).keras_file is None
    (native / "convmixer_tiny_fe.keras").unlink()
    assert open_extractor(str(native / "convmixer_tiny_fe"), 0, "keras_3").keras_file is None


def test_a_keras_file_alone_is_not_enough(native, tmp_path):
    alone = shutil.copy(native / "convmixer_tiny_fe.keras", tmp_path)
    with pytest.raises(ParameterError, match=r"convmixer_tiny_fe\.tar\.gz is needed beside the \.keras file"):
        open_extractor(str(alone), 0, "keras_3")


@pytest.mark.parametrize("other", ["model", "checkpoint"])
def test_a_keras_file_of_another_model_or_checkpoint_is_refused(native, other):
    path = native / "convmixer_tiny_fe.keras"
    if other == "model":
        shutil.copy(extractors.published("mixer native").folder.with_suffix(".keras"), path)
    else:
        record = read_record(path)
        record["source"]["sha256"] = "cd" * 32
        with zipfile.ZipFile(path) as source:
            members = {name: source.read(name) for name in source.namelist()}
        members["metadata.json"] = json.dumps(json.loads(members["metadata.json"]) | {"record": record})
        with zipfile.ZipFile(path, "w") as spoilt:
            for name, content in members.items():
                spoilt.writestr(name, content)
    manifest = native / "convmixer_tiny_fe.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({key: told[key] for key in told if key != "keras"}))  # it would tell the hash
    with pytest.raises(PackagingError, match="and the SavedModel beside it convmixer_tiny_fe"):
        open_extractor(str(native / "convmixer_tiny_fe"), 0, "keras_3")
