"""What a manifest may say, and what files there may be, whoever reads an artefact: anything else is refused."""

import json
import shutil
from dataclasses import asdict

import extractors
import impossible
import pytest

from utils.artefact.contents import manifest_of, preprocessing_of
from utils.artefact.opening import open_model
from utils.errors import PackagingError


@pytest.fixture
def copied(tmp_path):
    """A copy of a published classifier's folder, to be spoilt."""
    return shutil.copytree(extractors.published("classifier").folder, tmp_path / "copy")


def edit(folder, change):
    path = folder / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_features_have_no_class_names():
    found = open_model(str(extractors.published("convmixer").folder))
    assert (found.output, found.names) == ("features", ())


@pytest.mark.parametrize(("settings", "said"), impossible.PREPROCESSING)
def test_preprocessing_that_no_image_can_be_prepared_with_is_refused_by_all(copied, settings, said):
    edit(copied, lambda manifest: manifest["model"].update(preprocessing=asdict(settings)))
    with pytest.raises(PackagingError, match=f"no sound preprocessing.*{said}"):
        open_model(str(copied))
    with pytest.raises(PackagingError, match=f"no sound preprocessing.*{said}"):
        manifest_of(copied)  # of `utils.verify` and `utils.smaller`


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", "red"),
        ("mean", None),
        ("mean", [1, 2, True]),
        ("std", [1, 2, "3"]),
        ("std", [1, 1, 10**400]),
        ("crop", 48.5),
        ("crop", True),
        ("resize", "48"),
        ("interpolation", None),
    ],
    ids=str,
)
def test_preprocessing_of_other_types_is_refused(key, value):
    model = extractors.published("classifier").manifest
    manifest = json.loads(model.read_text())
    preprocessing_of(manifest)
    manifest["model"]["preprocessing"][key] = value
    with pytest.raises(PackagingError, match="no sound preprocessing"):
        preprocessing_of(manifest)


@pytest.mark.parametrize(
    ("side", "shape"),
    [
        ("outputs", []),
        ("outputs", 10),
        ("outputs", [None, None]),
        ("outputs", [None, 0]),
        ("inputs", [None, 48, 48]),
        ("inputs", [None, 48, 48, 1]),
        ("inputs", [None, "48", "48", 3]),
    ],
    ids=str,
)
def test_a_signature_of_another_kind_of_model_is_refused(copied, side, shape):
    name = {"inputs": "inputs", "outputs": "logits"}[side]
    edit(copied, lambda manifest: manifest["signatures"]["serving_default"][side][name].update(shape=shape))
    with pytest.raises(PackagingError, match=r"model '.*copy': assets\.extra/manifest\.json: serving_default"):
        open_model(str(copied))


def test_head_and_signature_must_agree(copied):
    edit(copied, lambda manifest: manifest.update(head="fe"))
    with pytest.raises(PackagingError, match="or no features"):
        open_model(str(copied))


def test_changed_missing_and_additional_files_are_named(copied):
    (copied / "saved_model.pb").write_bytes(b"another")
    (copied / "fingerprint.pb").unlink()
    (copied / "manifest.json").write_text("{}")  # where a TFLite file, and no SavedModel, has its manifest
    with pytest.raises(PackagingError) as error:
        open_model(str(copied))
    for said in (
        "saved_model.pb is not the file that was published",
        "fingerprint.pb is missing",
        "manifest.json is not in the manifest",
    ):
        assert said in str(error.value)


def test_a_manifest_too_large_to_be_one_is_not_read(copied):
    with (copied / "assets.extra" / "manifest.json").open("r+b") as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(PackagingError, match="too many to be what its name says"):
        open_model(str(copied))
