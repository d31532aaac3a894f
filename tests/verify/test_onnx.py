"""A downloaded .onnx file: right copies pass with ONNX Runtime alone, and each wrong one is named before it is run."""

import json
import os
import shutil
import subprocess
import sys

import onnx_tiny
import proofs
import pytest
import tiny

from utils.artefact.record import build_record, record_as_texts
from utils.export import onnx_session
from utils.families.variants import get_variant
from utils.files import hash_file
from utils.parity.golden import make_golden
from utils.verify import app as verify_app, native
from utils.verify.command import main

GELU = tiny.NAMES[0]
NAME = f"{GELU}_classification"


def texts():
    variant, proof = get_variant(GELU), proofs.proof(GELU)
    record = build_record(
        name=NAME,
        variant=variant,
        head="classification",
        weights="custom",
        source={"url": None, "path": "tiny", "sha256": "ab" * 32},
        parameters=21_000,
        units=10,
        image_size=48,
        preprocessing=variant.preprocessing,
        labels=None,
        golden=make_golden(proof.truth, 48, 48, 0, {}),
        tolerance=proof.tolerance(),
    )
    return record_as_texts(record)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    path = onnx_tiny.written(folder / f"{NAME}.onnx", GELU, image_size=48, metadata=texts())
    (folder / f"{NAME}.json").write_text(json.dumps({"onnx": {"sha256": hash_file(path)}}))
    return path


@pytest.fixture
def download(published, tmp_path):
    """A copy to damage, with the manifest beside it."""
    shutil.copy(published.with_suffix(".json"), tmp_path)
    return published.__class__(shutil.copy(published, tmp_path))


def said(capsys, path):
    status = main([str(path)])
    return status, capsys.readouterr().out.strip().splitlines()


def failed(lines):
    return [line.split()[0] for line in lines if line.split()[1:2] == ["FAIL"]]


def test_a_right_copy_passes_every_check_and_says_where(download, capsys):
    status, lines = said(capsys, download)
    assert status == 0
    words = [line.split()[:2] for line in lines[1:-1]]
    right = [[word, "ok"] for word in ("files", "contents", "name", "numbers", "numbers")]
    assert words == [["sum", "-"], *right]
    assert "right numbers here: ONNX Runtime 1." in lines[-1]


def test_the_single_file_verifies_it_where_nothing_but_onnx_runtime_is_installed(download, tmp_path):
    app = verify_app.build(tmp_path / "verify.pyz")
    blocked = ["tensorflow", "torch", "jax", "onnx", "keras", "tf_keras", "flax", "PIL", "pooch", "tqdm"]
    code = f"import sys, runpy; sys.modules |= dict.fromkeys({blocked!r}); sys.argv[:] = sys.argv[1:]; "
    command = [sys.executable, "-c", f"{code}runpy.run_path(sys.argv[0], run_name='__main__')", str(app), str(download)]
    environment = os.environ | {"PYTHONPATH": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right numbers here: ONNX Runtime" in done.stdout


def test_without_onnx_runtime_it_says_what_to_install(download, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, lines = said(capsys, download)
    assert (status, failed(lines)) == (1, ["machine"])
    assert "pip install onnxruntime" in lines[-2]
    assert "says nothing about this copy" in lines[-1]


def test_a_wrong_hash_stops_before_the_file_is_loaded(download, monkeypatch, capsys):
    monkeypatch.setattr(native, "Session", lambda _: pytest.fail("it was loaded"))
    download.write_bytes(download.read_bytes() + b"\0")
    status, lines = said(capsys, download)
    assert (status, failed(lines)) == (1, ["files"])
    assert "fetch it again" in lines[-1]


def test_a_renamed_file_is_named(download, capsys):
    status, lines = said(capsys, download.rename(download.with_name("convmixer_768_32_fe.onnx")))
    assert (status, failed(lines)) == (1, ["name"])


def test_other_weights_give_other_numbers(tmp_path, capsys):
    arrays = tiny.weights(GELU)
    arrays["blocks.1.1.weight"] *= 1.01
    path = onnx_tiny.written(tmp_path / f"{NAME}.onnx", GELU, arrays=arrays, metadata=texts())
    status, lines = said(capsys, path)
    assert (status, failed(lines)) == (1, ["numbers", "numbers"])
    assert "Try another version of ONNX Runtime" in lines[-1]


def of_two_images(model):
    """A batch that is not free: the first dimension of the input, and what follows from it."""
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def test_a_file_of_one_batch_size_is_not_right(tmp_path, capsys):
    path = onnx_tiny.written(tmp_path / f"{NAME}.onnx", GELU, metadata=texts(), edit=of_two_images)
    status, lines = said(capsys, path)
    assert (status, set(failed(lines))) == (1, {"numbers"})


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda data: b"<html>"])
def test_a_file_that_is_none_is_to_be_fetched_again(download, capsys, damage):
    download.write_bytes(damage(download.read_bytes()))
    download.with_suffix(".json").unlink()
    status, lines = said(capsys, download)
    assert (status, failed(lines)) == (1, ["contents"])
    assert "fetch it again" in lines[-1]


def test_a_file_of_nobody_here_is_named(tmp_path, capsys):
    status, lines = said(capsys, onnx_tiny.written(tmp_path / f"{NAME}.onnx", GELU))
    assert (status, failed(lines)) == (1, ["contents"])
    assert "variant is missing" in lines[-2]


def test_a_published_file_that_an_old_runtime_does_not_read_is_not_called_damaged(download, monkeypatch, capsys):
    def refuses(path):
        raise onnx_session.Unloadable(f"{path}: ONNX Runtime 1.2 cannot load it: opset 17 is not known")

    monkeypatch.setattr(native, "Session", refuses)
    status, lines = said(capsys, download)
    assert (status, failed(lines)) == (1, ["load"])
    assert "Try another version of ONNX Runtime" in lines[-1]
