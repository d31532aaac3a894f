"""The `.keras` file as part of an artefact: placed with the rest or not at all, told of in the manifest, verified."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import keras_tiny
import manifests
import notebooks
import proofs
import pytest
import tiny
from keras_tiny import GELU

from utils.artefact.contents import check_artefact
from utils.artefact.record import build_record, check_record, golden_of
from utils.artefact.staging import Staging
from utils.errors import PackagingError
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.keras_models import saving
from utils.keras_models.archive import read_record
from utils.parity.golden import make_golden
from utils.verify.command import verify

NAME = manifests.NAME
ALL = sorted([NAME, f"{NAME}.tar.gz", f"{NAME}.keras", f"{NAME}.json"])


@pytest.fixture(scope="module")
def record():
    proof, variant = proofs.proof(GELU), get_variant(GELU)
    return build_record(
        name=NAME,
        variant=variant,
        head="classification",
        weights="custom",
        source={"url": None, "path": "tiny", "sha256": "ab" * 32},
        image_size=48,
        parameters=21_000,
        units=10,
        preprocessing=variant.preprocessing,
        labels=[(f"n{i}", f"class {i}") for i in range(10)],
        golden=make_golden(proof.truth, 48, 48, 0),
        tolerance=proof.tolerance(),
    )


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


def test_file_is_placed_with_the_rest_and_does_not_stay_beside_a_later_conversion(tmp_path):
    tarball = publish(tmp_path).tarball.read_bytes()
    assert left_in(tmp_path) == ALL
    path = tmp_path / f"{NAME}.keras"
    assert check_artefact(tmp_path, NAME)["keras"] == {"sha256": hash_file(path), "parity": {}, "bytes": 5}
    assert publish(tmp_path, content=None).tarball.read_bytes() == tarball
    assert left_in(tmp_path) == [name for name in ALL if name != path.name]


def test_file_that_was_not_proved_is_not_published(tmp_path):
    with pytest.raises(PackagingError, match="not the file that parity was run on"):
        publish(tmp_path, sha256="cd" * 32)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        *({"tolerance": 3.0}, {"head": "tail"}, {"weights": None}, {"golden": None}, {"output": "x"}, {"model": {}}),
        *({"units": True}, {"units": 0}, {"parameters": "many"}, {"image_size": -5}),
        *({"name": f"{NAME}_synthetic"}, {"output": "features"}, {"source": {"url": None, "path": "a", "sha256": "b"}}),
        *({"labels": [["n0", "class 0"]]}, {"labels": [["n0"]] * 10}, {"labels": "ab" * 5}, {"labels": [[0, 1]] * 10}),
    ],
)
def test_record_that_makes_no_sense_is_refused(record, change):
    check_record(record, "a.keras")
    with pytest.raises(PackagingError, match=f"a.keras: {next(iter(change))}"):
        check_record(record | change, "a.keras")


@pytest.mark.parametrize("golden", ["not base64!", "aGVsbG8="])
def test_damaged_golden_data_are_named(golden):
    with pytest.raises(PackagingError, match=r"a\.keras"):
        golden_of({"golden": golden}, "a.keras")


# --- verification


@pytest.fixture(scope="module")
def written(tmp_path_factory, record):
    path = tmp_path_factory.mktemp("written") / f"{NAME}.keras"
    return saving.write(path, get_variant(GELU), proofs.weights(GELU), "classification", 48, record)


def failures(path):
    return [check.name for check in verify(path) if check.passed is False]


def test_right_file_is_verified_down_to_its_numbers(written, tmp_path):
    path = Path(shutil.copy(written, tmp_path))
    path.with_suffix(".json").write_text(json.dumps({"keras": {"sha256": hash_file(written)}}))
    stages = ["files", "contents", "name", "numbers", "numbers"]
    assert [(check.name, check.passed) for check in verify(path) if check.name != "sum"] == [(s, True) for s in stages]


@pytest.mark.slow
def test_verification_computes_on_the_backend_that_was_asked_for(written):
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    command = [sys.executable, "-m", "utils.verify", str(written)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " on torch, Python" in done.stdout


def test_wrong_hash_stops_before_the_file_is_loaded(written, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.keras_models.saving.load", lambda _: pytest.fail("it was loaded"))
    path = Path(shutil.copy(written, tmp_path))
    path.with_suffix(".json").write_text(json.dumps({"keras": {"sha256": "00" * 32}}))
    assert failures(path) == ["files"]
    (tmp_path / "SHA256SUMS").write_text(f"{'00' * 32}  {path.name}\n")
    assert failures(path) == ["sum"]


@pytest.mark.parametrize(
    ("kind", "failed"),
    [
        ("renamed", ["name"]),
        ("other weights", ["numbers", "numbers"]),
        ("cut", ["contents"]),
        ("without a record", ["contents"]),
    ],
)
def test_wrong_file_is_named_by_what_is_wrong(kind, failed, written, record, tmp_path):
    path = tmp_path / f"{NAME}.keras"
    if kind == "renamed":
        path = Path(shutil.copy(written, tmp_path / "mixer_tiny_fe.keras"))
    elif kind == "other weights":
        arrays = proofs.weights(GELU)
        arrays["blocks.1.1.weight"] *= 1.01
        saving.write(path, get_variant(GELU), arrays, "classification", 48, record)
    elif kind == "cut":
        path.write_bytes(written.read_bytes()[:5000])
    else:
        keras_tiny.built(GELU).save(path)
    assert failures(path) == failed


def test_record_that_lies_about_its_family_is_found_out(record, tmp_path):
    lie = {"family": "mixer", "architecture": asdict(get_variant("mixer_tiny").architecture)}
    told = record | {"model": record["model"] | lie}
    path = saving.write(tmp_path / f"{NAME}.keras", get_variant(GELU), proofs.weights(GELU), "classification", 48, told)
    assert failures(path)


# --- the notebook


@pytest.mark.slow
def test_notebook_leaves_each_file_with_its_proof(tmp_path):
    formats = {"checkpoint": str(tiny.GOLDEN / f"{GELU}.timm.pth.tar"), "formats": "saved_model, keras, onnx"}
    notebooks.run("conversion_convmixer.ipynb", tmp_path, variant=GELU, image_size=48, **formats)
    exports = tmp_path / "exports"
    assert left_in(exports) == sorted([*ALL, f"{NAME}.onnx"])
    manifest = check_artefact(exports, NAME)
    assert set(manifest["keras"]["parity"]) == {"tensorflow", "jax", "torch"}
    for key in ("keras", "onnx"):
        assert all(each["passed"] for each in manifest[key]["parity"].values())
        assert failures(exports / f"{NAME}.{key}") == []
    path = exports / f"{NAME}.keras"
    assert read_record(path)["weights"] == "custom"
    model, golden = saving.load(path), tiny.expected(GELU)
    assert tiny.relative_error(model(golden["inputs"], training=False), golden["logits"]) <= 1e-5
