"""The `.keras` file as part of an artefact: placed with the rest or not at all, told of in the manifest, verified."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras_tiny
import manifests
import notebooks
import proofs
import pytest
import tiny
from keras_tiny import GELU, MIXER

from utils.artefact.contents import check_artefact, preprocessing_of
from utils.artefact.record import build_record, check_record, golden_of
from utils.artefact.staging import Staging
from utils.errors import PackagingError, ParameterError
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.keras_models import conversion, saving
from utils.keras_models.archive import read_record
from utils.parity.golden import make_golden
from utils.settings import formats_of
from utils.verify.command import verify

NAME = manifests.NAME
KERAS = "saved_model, keras"
ALL = sorted([NAME, f"{NAME}.tar.gz", f"{NAME}.keras", f"{NAME}.json"])


def record(name=GELU, **changes):
    proof, variant = proofs.proof(name), get_variant(name)
    fields = {"name": f"{name}_classification", "variant": variant, "head": "classification", "weights": "custom"}
    fields |= {"source": {"url": None, "path": "tiny", "sha256": "ab" * 32}, "image_size": 48}
    fields |= {"parameters": 21_000, "units": 10}
    fields |= {"preprocessing": variant.preprocessing, "labels": [(f"n{i}", f"class {i}") for i in range(10)]}
    fields |= {"golden": make_golden(proof.truth, 48, 48, 0), "tolerance": proof.tolerance()}
    return build_record(**(fields | changes))


def publish(output_dir, content=b"keras", **changes):
    with Staging(output_dir, NAME) as stage:
        manifests.save(stage.model_dir)
        stage.unpacked_candidate()
        keras = {}
        if content:
            stage.beside["keras"].write_bytes(content)
            keras = {"keras": {"sha256": hash_file(stage.beside["keras"]), "parity": {}} | changes}
        return stage.publish(manifests.manifest(stage.files) | keras)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_is_placed_with_the_rest_and_its_hash_stands_in_the_manifest(tmp_path):
    published = publish(tmp_path)
    assert left_in(tmp_path) == ALL
    manifest = check_artefact(tmp_path, NAME)
    path = tmp_path / f"{NAME}.keras"
    assert manifest["keras"] == {"sha256": hash_file(path), "parity": {}, "bytes": 5}
    assert published.facts["Keras 3"] == str(path)


def test_tarball_is_the_same_with_it_and_without(tmp_path):
    one, other = publish(tmp_path / "a").tarball, publish(tmp_path / "b", content=None).tarball
    assert one.read_bytes() == other.read_bytes()


def test_file_of_an_earlier_conversion_does_not_stay_beside_a_later_one(tmp_path):
    publish(tmp_path)
    publish(tmp_path, content=None)
    assert left_in(tmp_path) == [name for name in ALL if not name.endswith(".keras")]


def test_file_that_was_not_proved_is_not_published(tmp_path):
    with pytest.raises(PackagingError, match="not the file that parity was run on"):
        publish(tmp_path, sha256="cd" * 32)
    assert left_in(tmp_path) == []


# --- what is in the record


def test_record_tells_what_a_reader_needs():
    found = record()
    assert (found["output"], found["weights"], found["activation"]) == ("logits", "custom", "gelu, erf")
    assert record(MIXER)["activation"] == "gelu, tanh"
    assert preprocessing_of(found) == get_variant(GELU).preprocessing
    assert found["labels"][3] == ["n3", "class 3"]
    assert record(head="fe")["labels"] is None
    assert golden_of(found, "a").inputs.shape == (1, 48, 48, 3)
    check_record(found, "a.keras")


@pytest.mark.parametrize(
    "change",
    [
        *({"tolerance": 3.0}, {"head": "tail"}, {"weights": None}, {"golden": None}, {"output": "x"}, {"model": {}}),
        *({"units": True}, {"units": 0}, {"parameters": "many"}),
        *({"labels": [["n0", "class 0"]]}, {"labels": [["n0"]] * 10}, {"labels": "ab" * 5}, {"labels": [[0, 1]] * 10}),
    ],
)
def test_record_that_makes_no_sense_is_refused(change):
    with pytest.raises(PackagingError, match=f"a.keras: {next(iter(change))}"):
        check_record(record() | change, "a.keras")


@pytest.mark.parametrize("golden", ["not base64!", "aGVsbG8="])
def test_damaged_golden_data_are_named(golden):
    with pytest.raises(PackagingError, match=r"a\.keras"):
        golden_of({"golden": golden}, "a.keras")


@pytest.mark.parametrize(
    "formats", ["", "keras", "saved_model keras", "saved_model, saved_model", "h5, saved_model", None]
)
def test_formats_that_are_none_are_named(formats):
    with pytest.raises(ParameterError, match="formats is"):
        formats_of(formats)


def test_formats():
    assert formats_of("saved_model") == ("saved_model",)
    assert set(formats_of("keras,saved_model ", "mixer")) == {"saved_model", "keras"}


# --- verification


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / f"{NAME}.keras"
    conversion.write(path, get_variant(GELU), proofs.weights(GELU), "classification", 48, record())
    return path


def failures(path, tmp_path):
    return [(check.name, check.text) for check in verify(path) if check.passed is False]


def test_right_file_is_verified_down_to_its_numbers(written, tmp_path):
    (tmp_path / f"{NAME}.json").write_text(json.dumps({"keras": {"sha256": hash_file(written)}}))
    path = shutil.copy(written, tmp_path)
    checks = verify(Path(path))
    stages = ["files", "contents", "name", "numbers", "numbers"]
    assert [(check.name, check.passed) for check in checks if check.name != "sum"] == [(name, True) for name in stages]


@pytest.mark.slow
def test_verification_computes_on_the_backend_that_was_asked_for(written):
    done = subprocess.run(
        [sys.executable, "-m", "utils.verify", str(written)],
        env=os.environ | {"KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " on torch, Python" in done.stdout


def test_wrong_hash_stops_before_the_file_is_loaded(written, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.keras_models.saving.load", lambda _: pytest.fail("it was loaded"))
    (tmp_path / f"{NAME}.json").write_text(json.dumps({"keras": {"sha256": "00" * 32}}))
    path = Path(shutil.copy(written, tmp_path))
    assert [name for name, _ in failures(path, tmp_path)] == ["files"]
    (tmp_path / "SHA256SUMS").write_text(f"{'00' * 32}  {path.name}\n")
    assert [name for name, _ in failures(path, tmp_path)] == ["sum"]


def test_renamed_file_is_named(written, tmp_path):
    path = Path(shutil.copy(written, tmp_path / "mixer_tiny_fe.keras"))
    ((name, text),) = failures(path, tmp_path)
    assert name == "name"
    assert NAME in text


def test_other_weights_give_other_numbers(tmp_path):
    arrays = proofs.weights(GELU)
    arrays["blocks.1.1.weight"] *= 1.01
    path = tmp_path / f"{NAME}.keras"
    conversion.write(path, get_variant(GELU), arrays, "classification", 48, record())
    assert [name for name, _ in failures(path, tmp_path)] == ["numbers", "numbers"]


@pytest.mark.parametrize("kind", ["cut", "not ours"])
def test_file_that_is_none_is_named(kind, written, tmp_path):
    path = tmp_path / f"{NAME}.keras"
    if kind == "cut":
        path.write_bytes(written.read_bytes()[:5000])
    else:
        saving.save(keras_tiny.built(GELU), path, {})
        contents = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, data in (contents | {"metadata.json": b"{}"}).items():
                file.writestr(name, data)
    assert [name for name, _ in failures(path, tmp_path)] == ["contents"]


# --- the notebooks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name", "formats"), [("convmixer", GELU, "saved_model, keras, onnx"), ("mlpmixer", MIXER, KERAS)]
)
def test_notebook_leaves_each_file_with_its_proof(tmp_path, family, name, formats):
    checkpoint = tiny.GOLDEN / ("mixer_tiny.npz" if name == MIXER else f"{name}.timm.pth.tar")
    settings = {"variant": name, "checkpoint": str(checkpoint), "image_size": 48, "formats": formats}
    notebooks.run(f"conversion_{family}.ipynb", tmp_path, **settings)
    exports, artefact = tmp_path / "exports", f"{name}_classification"
    beside = formats.split(", ")[1:]
    assert left_in(exports) == sorted([artefact, *(f"{artefact}.{end}" for end in ("json", "tar.gz", *beside))])
    manifest = check_artefact(exports, artefact)
    assert set(manifest["keras"]["parity"]) == {"tensorflow", "jax", "torch"}
    assert all(each["passed"] for key in beside for each in manifest[key]["parity"].values())
    assert [failures(exports / f"{artefact}.{key}", tmp_path) for key in beside] == [[]] * len(beside)
    path = exports / f"{artefact}.keras"
    assert read_record(path)["weights"] == "custom"
    model, golden = saving.load(path), tiny.expected(name)
    assert tiny.relative_error(model(golden["inputs"], training=False), golden["logits"]) <= 1e-5


@pytest.mark.slow
def test_notebook_that_would_write_another_model_leaves_nothing(tmp_path):
    fault = ["from utils.families.mlp_mixer import keras_model", 'keras_model.GELU = "gelu"']
    faulty = notebooks.with_fault("conversion_mlpmixer.ipynb", tmp_path, "show.Facts(conversion.save())", fault)
    checkpoint = str(tiny.GOLDEN / "mixer_tiny.npz")
    settings = {"variant": MIXER, "checkpoint": checkpoint, "image_size": 48, "formats": KERAS}
    notebooks.assert_stops(faulty, tmp_path, "the .keras file on tensorflow", **settings)
