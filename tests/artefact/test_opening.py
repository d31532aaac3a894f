"""Opening a model: folder, tarball or address; and refusing, in words, what is none, or was changed."""

import json
import shutil
import tarfile
import zipfile
from dataclasses import asdict

import extractors
import impossible
import numpy as np
import pytest
from server import folder_server

from utils.artefact.contents import manifest_of
from utils.artefact.manifest import UNLISTED
from utils.artefact.opening import open_model, open_models
from utils.errors import PackagingError, ParameterError
from utils.export import saved_model
from utils.families.variants import get_variant
from utils.files import hash_file


@pytest.fixture(scope="module")
def published():
    """A tiny artefact, published without the comparison that a conversion makes."""
    return extractors.published("synthetic")


@pytest.fixture
def copied(published, tmp_path):
    """A copy of its folder, to be spoilt."""
    return shutil.copytree(published.folder, tmp_path / "copy")


def edit(folder, change):
    path = folder / UNLISTED[0]
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_folder_and_tarball_open_to_the_same_model(published):
    for path in (published.folder, published.tarball):
        opened = open_model(str(path))
        assert opened.name == "convmixer_tiny_classification_synthetic"
        assert opened.output == "logits"
        assert opened.preprocessing == get_variant("convmixer_tiny").preprocessing
        assert opened.names == tuple(f"class {i}" for i in range(10))
        assert opened.weights == "synthetic"
        assert set(opened.hashes) - set(opened.files) == set(UNLISTED)
        model = saved_model.load_model(opened.folder)
        assert model(np.zeros((1, 48, 48, 3), np.float32)).shape == (1, 10)
    folder = opened.folder  # what the tarball was unpacked to
    del opened
    assert not folder.exists()


def test_a_keras_file_tells_of_itself_and_may_stand_beside_its_saved_model():
    published = extractors.published("convmixer native")
    path = published.folder.with_suffix(".keras")
    opened = open_models([str(published.folder), str(path)])
    assert list(opened) == ["convmixer_tiny_fe", "convmixer_tiny_fe.keras"]
    saved, native = opened.values()
    assert (native.folder, native.keras_file) == (None, path)
    for what in ("name", "weights", "output", "units", "preprocessing", "labels", "names", "variant"):
        assert getattr(native, what) == getattr(saved, what), what
    assert native.hashes == {path.name: hash_file(path)}
    assert (saved.output, saved.names) == ("features", ())
    with pytest.raises(ParameterError, match=r"\.keras, which was named already"):
        open_models([str(path), str(path)])


def rezipped(path, target, change):
    """A copy of a zip file with `change(name, content)` of each member."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as spoilt:
        for member in source.namelist():
            spoilt.writestr(member, change(member, source.read(member)))
    return str(target)


def test_a_keras_file_is_refused_if_it_is_absent_another_one_holds_code_or_a_saved_model_is_needed(tmp_path):
    path = extractors.published("convmixer native").folder.with_suffix(".keras")
    with pytest.raises(ParameterError, match=r"is a \.keras file; here a SavedModel is needed"):
        open_model(str(path))
    with pytest.raises(ParameterError, match=r"absent\.keras': there is no such file"):
        open_models([str(tmp_path / "absent.keras")])
    shutil.copy(path.with_suffix(".json"), tmp_path)
    other = rezipped(
        path, tmp_path / path.name, lambda name, content: content + b"x" if name.endswith("h5") else content
    )
    with pytest.raises(PackagingError, match=r"convmixer_tiny_fe\.keras is not the file that was published"):
        open_models([other])
    code = b'"class_name": "Add"', b'"class_name": "Lambda"'
    hostile = rezipped(path, tmp_path / "code.keras", lambda name, content: content.replace(*code))
    with pytest.raises(PackagingError, match=r"code\.keras: config\.json asks for keras\.layers\.Lambda"):
        open_models([hostile])


def test_address_is_fetched_by_tf_hub_which_loads_it_as_it_is(published, tmp_path, monkeypatch):
    import tensorflow_hub

    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path))
    with folder_server(published.tarball.parent) as address:
        tarball = f"{address}/{published.tarball.name}"
        assert open_model(tarball).name == "convmixer_tiny_classification_synthetic"
        model = tensorflow_hub.load(tarball)
        assert model(np.zeros((1, 48, 48, 3), np.float32)).shape == (1, 10)
        with pytest.raises(PackagingError, match=r"could not be fetched.*Check the address"):
            open_model(f"{address}/absent.tar.gz")


def test_what_is_refused_does_not_stay_in_tf_hubs_cache(published, tmp_path, monkeypatch):
    served, cache = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(cache))
    with tarfile.open(served / "a.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("saved_model.pb"))
    with folder_server(served) as address:
        with pytest.raises(PackagingError, match="was removed from TF Hub's cache"):
            open_model(f"{address}/a.tar.gz")
        shutil.copyfile(published.tarball, served / "a.tar.gz")
        assert open_model(f"{address}/a.tar.gz").name == "convmixer_tiny_classification_synthetic"


def test_nothing_there_says_what_is_and_what_to_do(published, tmp_path):
    with pytest.raises(ParameterError, match=r"there is no such file\. Convert one first"):
        open_model(str(tmp_path / "absent.tar.gz"))
    with pytest.raises(ParameterError, match=r"Tarballs there: convmixer_tiny_classification_synthetic\.tar\.gz"):
        open_model(str(published.tarball.parent / "convmixer_tiny_classification.tar.gz"))
    with pytest.raises(ParameterError, match=r"holds no saved_model\.pb"):
        open_model(str(published.tarball.parent))
    (tmp_path / "model.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(PackagingError, match=r"model\.tar\.gz.*Expected a complete \.tar\.gz"):
        open_model(str(tmp_path / "model.tar.gz"))


def shaped(side, shape):
    name = {"inputs": "inputs", "outputs": "logits"}[side]
    return lambda folder: edit(folder, lambda m: m["signatures"]["serving_default"][side][name].update(shape=shape))


CHANGES = {
    "no manifest": (
        lambda folder: (folder / UNLISTED[0]).unlink(),
        r"manifest\.json is missing: it is not an artefact of this project",
    ),
    "no text": (lambda folder: (folder / UNLISTED[0]).write_bytes(b"\xff"), "is not text"),
    "huge": (lambda folder: (folder / UNLISTED[0]).write_bytes(bytes((16 << 20) + 1)), "too many to be what its name"),
    "other weights": (lambda folder: edit(folder, lambda m: m.update(weights="stolen")), "weights is 'stolen'"),
    "another head": (lambda folder: edit(folder, lambda m: m.update(head="fe")), "features"),
    "another graph": (lambda folder: (folder / "saved_model.pb").write_bytes(b"x"), r"saved_model\.pb is not the file"),
    "a missing file": (lambda folder: (folder / "fingerprint.pb").unlink(), r"fingerprint\.pb is missing"),
    # Where a TFLite file, and no SavedModel, has its manifest.
    "one file more": (lambda folder: (folder / "manifest.json").write_text("{}"), r"manifest\.json is not in the man"),
    "no shape": (shaped("outputs", None), "serving_default"),
    "any number of units": (shaped("outputs", [None, None]), "serving_default"),
    "no unit": (shaped("outputs", [None, 0]), "serving_default"),
    "one channel": (shaped("inputs", [None, 48, 48, 1]), "serving_default"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_was_changed_is_refused_by_name(copied, case):
    change, said = CHANGES[case]
    change(copied)
    with pytest.raises(PackagingError, match=f"model '.*copy': .*{said}"):
        open_model(str(copied))


@pytest.mark.parametrize(("settings", "said"), impossible.PREPROCESSING)
def test_preprocessing_that_no_image_can_be_prepared_with_is_refused(copied, settings, said):
    edit(copied, lambda manifest: manifest["model"].update(preprocessing=asdict(settings)))
    with pytest.raises(PackagingError, match=f"preprocessing.*{said}"):
        manifest_of(copied)  # which `open_model` and `utils.verify` read it by
