"""What a downloader runs: right copies pass, and each kind of wrong one is named, before anything in it is run."""

import errno
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import artefacts
import numpy as np
import pytest

from utils.artefact.manifest import UNLISTED
from utils.artefact.tarball import extract_tarball, write_tarball
from utils.files import hash_file
from utils.parity.golden import GOLDEN, golden_bytes, read_golden
from utils.verify import app as verify_app, numbers
from utils.verify.command import main
from utils.verify.files import SUMS

NAME = "convmixer_tiny_classification"
FILES = [f"{NAME}.tar.gz", f"{NAME}.json"]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as a release has it: tarball, manifest, sums; and the SavedModel's folder."""
    folder = tmp_path_factory.mktemp("published")
    artefacts.publish(folder)
    (folder / SUMS).write_text("".join(f"{hash_file(folder / name)}  {name}\n" for name in FILES))
    return folder


@pytest.fixture
def download(published, tmp_path):
    """A copy to damage: the tarball's path, with manifest and sums beside it."""
    for name in (*FILES, SUMS):
        shutil.copyfile(published / name, tmp_path / name)
    return tmp_path / FILES[0]


@pytest.fixture
def nothing_is_run(monkeypatch):
    """What is not known to be what was published must not be loaded: a SavedModel is a program."""
    for name in ("check_saved_model", "check_lite"):
        monkeypatch.setattr(numbers, name, lambda *_: pytest.fail("the model was loaded"))


def alone(download):
    """Only the tarball, as from a link in a mail."""
    for name in (FILES[1], SUMS):
        (download.parent / name).unlink()
    return download


def repack(download, change):
    """Unpacks, lets `change(folder)` do its work, packs again, and puts matching sums beside it."""
    folder = download.parent / "changed"
    extract_tarball(download, folder)
    change(folder)
    write_tarball(folder, download)
    shutil.rmtree(folder)
    (download.parent / SUMS).write_text(f"{hash_file(download)}  {download.name}\n")


def manifest_inside(folder, change):
    path = folder / UNLISTED[0]
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def said(capsys, *paths):
    """Exit status, and what was printed about each file: a list of lines each."""
    status = main([str(path) for path in paths])
    out = capsys.readouterr().out
    return status, [block.splitlines() for block in out.strip().split("\n\n")]


# --- right copies


def test_a_right_copy_passes_every_check_and_says_where(download, capsys):
    status, (lines,) = said(capsys, download)
    assert status == 0
    words = [line.split()[:2] for line in lines[1:-1]]
    stages = ["sum", "contents", "name", "manifest", "files", "numbers", "numbers"]
    assert words == [[stage, "ok"] for stage in stages]
    assert "This copy gives the right numbers here: TensorFlow 2." in lines[-1]
    assert any("relative L2 error" in line and "<= 1.0e-05" in line for line in lines)


def test_a_copy_without_sums_and_manifest_passes_and_says_what_was_not_there(download, capsys):
    status, (lines,) = said(capsys, alone(download))
    assert status == 0
    assert lines[1].split()[:2] == ["sum", "-"]
    assert [line.split()[:2] for line in lines if "beside it" in line][1] == ["manifest", "-"]


def test_sums_as_other_tools_write_them_are_read(download, capsys):
    (download.parent / SUMS).write_text(f"{'0' * 64} *other.tar.gz\n\n{hash_file(download)} *./{download.name}\n")
    _, (lines,) = said(capsys, download)
    assert lines[1].split()[:2] == ["sum", "ok"]


def test_several_files_are_all_verified_and_one_wrong_one_is_the_status(download, published, tmp_path, capsys):
    shutil.copytree(published / NAME, tmp_path / "a folder of any name")
    download.write_bytes(b"<html>not found</html>")
    paths = download, download.with_name("nothing.tar.gz"), tmp_path / "a folder of any name"
    status, (wrong, missing, right) = said(capsys, *paths)
    assert status == 1
    assert "fetch it again" in wrong[-1]
    assert "no such file" in missing[1]
    assert "right numbers" in right[-1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda manifest: manifest.update(format=[]), "manifest.json: format is []"),
        (lambda manifest: manifest["parity"].update(compared=[[]]), "parity.compared[0] is []"),
        (lambda manifest: manifest.update(model=None), "manifest.json: model is None"),
    ],
)
def test_a_manifest_of_odd_types_is_a_verdict_and_the_next_file_is_looked_at(
    published, tmp_path, capsys, nothing_is_run, change, text
):
    shutil.copytree(published / NAME, tmp_path / NAME)
    manifest_inside(tmp_path / NAME, change)
    status, (lines, after) = said(capsys, tmp_path / NAME, tmp_path / "nothing.tar.gz")
    assert status == 1
    assert text in lines[1]
    assert "no such file" in after[1]


def test_a_fault_of_our_own_fails_that_file_alone(download, capsys, monkeypatch):
    monkeypatch.setattr("utils.verify.command.manifest_of", lambda _: {}["name"])
    status, (lines, after) = said(capsys, download, download.with_name("nothing.tar.gz"))
    assert status == 1
    assert "KeyError: 'name'" in lines[2]
    assert "no such file" in after[1]


def test_a_file_whose_numbers_were_not_computed_is_not_right(download, capsys, monkeypatch):
    monkeypatch.setattr(numbers, "check_saved_model", lambda *_: [])
    status, (lines,) = said(capsys, download)
    assert status == 1
    assert "right numbers" not in lines[-1]


def test_wrong_usage_is_another_status(capsys):
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2


def test_a_newer_version_s_fields_are_named_and_the_copy_is_right(published, tmp_path, capsys):
    shutil.copytree(published / NAME, tmp_path / NAME)
    manifest_inside(tmp_path / NAME, lambda manifest: manifest.update(schema=2, builder={"a": 1}))
    status, (lines,) = said(capsys, tmp_path / NAME)
    assert status == 0
    assert "fields that this version does not know: builder" in lines[1]


# --- a machine that cannot


def cannot(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("where", ["utils.artefact.tarball._write", "utils.verify.files.hash_file"])
def test_what_this_machine_lacks_is_not_said_of_the_copy_and_the_next_file_is_looked_at(
    download, capsys, monkeypatch, where
):
    monkeypatch.setattr(where, cannot)
    status, (lines, after) = said(capsys, download, download.with_name("nothing.tar.gz"))
    assert status == 1
    (failed,) = [line for line in lines if line.split()[1:2] == ["FAIL"]]
    assert failed.split()[0] == "machine"
    assert "No space left" in failed
    assert "says nothing about this copy" in lines[-1]
    assert "fetch it again" not in lines[-1]
    assert "fetch it again" in after[-1]


def test_without_tensorflow_it_says_what_to_install(download, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    lines = fails(capsys, download, "machine", "pip install tensorflow")
    assert "says nothing about this copy" in lines[-1]


# --- wrong copies


def fails(capsys, path, stage, *texts):
    status, (lines,) = said(capsys, path)
    assert status == 1
    failed = [line for line in lines if line.split()[1:2] == ["FAIL"]]
    assert {line.split()[0] for line in failed} == {stage}, lines
    for text in texts:
        assert text in failed[0]
    assert "right numbers" not in lines[-1]
    return lines


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def climbing(download):
    with tarfile.open(alone(download), "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../evil"))


def sums(text):
    return lambda download: (download.parent / SUMS).write_text(text)


def beside(change):
    return lambda download: (path := download.with_name(FILES[1])).write_text(change(path.read_text()))


def inside(change):
    return lambda download: repack(download, change)


# What is done to the download, the stage that fails, and what is said.
WRONG = {
    "another sum": (sums(f"{'ab' * 32}  {FILES[0]}\n"), "sum", "SHA256SUMS says abab"),
    "damaged sums": (sums("<html>"), "sum", "SHA256SUMS is damaged"),
    "a flipped byte": (flip, "sum", "its SHA-256 is"),
    "a flipped byte, no sums": (lambda download: flip(alone(download)), "contents", "Nothing was unpacked"),
    "a page": (lambda download: alone(download).write_bytes(b"<html>"), "contents", "neither a .tar.gz nor a .tflite"),
    "a bad member": (climbing, "contents", "'../../evil': its path leads outside the folder"),
    "no manifest": (inside(lambda folder: (folder / UNLISTED[0]).unlink()), "contents", "not an artefact of this"),
    "another file inside": (inside(lambda folder: flip(folder / "saved_model.pb")), "files", "saved_model.pb is not"),
    "another manifest beside it": (
        beside(lambda text: json.dumps(json.loads(text) | {"parameters": 1})),
        "manifest",
        "differs from the one inside, in parameters",
    ),
    "a damaged manifest beside it": (beside(lambda text: text[:-9]), "manifest", f"{FILES[1]}: {FILES[1]} is not JSON"),
}


@pytest.mark.parametrize("case", WRONG)
def test_nothing_is_run_before_the_files_are_known(download, capsys, nothing_is_run, case):
    change, stage, text = WRONG[case]
    change(download)
    fails(capsys, download, stage, text)
    assert not list(download.parent.rglob("evil"))


def test_another_artefact_in_its_place_is_not_run(download, capsys, nothing_is_run):
    other = download.rename(download.with_name("convmixer_768_32_classification.tar.gz"))
    fails(capsys, other, "name", f"inside is {NAME}")


def other_numbers(folder):
    golden = read_golden((folder / GOLDEN).read_bytes(), "")
    outputs = golden.outputs.copy()
    outputs[0, 3] += 2e-5  # twice the gate
    (folder / GOLDEN).write_bytes(golden_bytes(replace(golden, outputs=outputs)))
    manifest_inside(folder, lambda manifest: manifest["files"].update({GOLDEN: hash_file(folder / GOLDEN)}))


def without_golden(folder):
    (folder / GOLDEN).unlink()
    manifest_inside(folder, lambda manifest: manifest["files"].pop(GOLDEN))


def without_tolerance(folder):
    manifest_inside(folder, lambda manifest: manifest["parity"]["tolerance"].clear())


def other_signature(folder):
    tensor = {"inputs": {"dtype": "float32", "shape": [None, 64, 64, 3]}}
    manifest_inside(folder, lambda manifest: manifest["signatures"]["serving_default"].update(inputs=tensor))


@pytest.mark.parametrize(
    ("change", "stage", "texts"),
    [
        (other_numbers, "numbers", ["relative L2 error", " > 1.0e-05"]),
        (without_golden, "numbers", ["carries no golden inputs"]),
        (without_tolerance, "numbers", ["the manifest names no tolerance for logits"]),
        (other_signature, "signatures", ["[None, 48, 48, 3]", "[None, 64, 64, 3]"]),
    ],
)
def test_published_files_that_compute_otherwise_are_not_called_right_nor_to_be_fetched_again(
    download, capsys, change, stage, texts
):
    repack(alone(download), change)
    lines = fails(capsys, download, stage, *texts)
    assert "not found right" in lines[-1]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (lambda images: images, "serving_image, serving_image_bytes called"),
        (lambda images: images // 2, "logits differs between"),
        (lambda images: images[:1], "serving_image_bytes, logits: [1, 3]"),
        (lambda images: images * np.nan, "not finite"),
        (lambda images: images.no_such_method(), "cannot be called"),
    ],
    ids=["none", "other pixels", "other shape", "NaN", "exception"],
)
def test_image_signatures_are_called_and_compared(fault, text):
    import tensorflow as tf

    def serving_image(images):
        assert images.dtype == tf.uint8
        return means(images.numpy())

    def serving_image_bytes(image_bytes):
        return means(fault(np.stack([tf.io.decode_png(data, 3).numpy() for data in image_bytes])))

    def means(images):
        return {"logits": tf.constant(images.mean((1, 2)), tf.float32)}

    signatures = {"serving_image": serving_image, "serving_image_bytes": serving_image_bytes}
    described = {name: {"outputs": {"logits": {"dtype": "float32", "shape": [None, 3]}}} for name in signatures}
    check = numbers._check_image_signatures(tf, SimpleNamespace(signatures=signatures), described)
    assert text in check.text
    assert check.passed is ("called;" in check.text)


# --- as a downloader has it

BLOCKED = """
import importlib.abc, runpy, sys
NAMES = set("torch jax jaxlib flax onnx onnx_tf tf_keras tensorflow_hub PIL matplotlib pooch tqdm papermill nbclient "
            "nbformat ipykernel IPython psutil yaml pytest scipy pandas".split())
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in NAMES:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv[:] = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_blocked(app, path):
    command = [sys.executable, "-c", BLOCKED, str(app), str(path)]
    environment = os.environ | {"PYTHONPATH": ""}
    return subprocess.run(command, cwd=app.parent, env=environment, capture_output=True, text=True, timeout=300)


def test_the_single_file_does_the_same_without_the_repository_and_needs_nothing_but_tensorflow(download, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    app = verify_app.build(tmp_path / "elsewhere" / "verify.pyz")
    done = run_blocked(app, download)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right numbers" in done.stdout
    download.write_bytes(download.read_bytes()[:-1])
    done = run_blocked(app, download)
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert done.stderr == ""


def test_the_single_file_holds_what_it_imports_the_same_bytes_each_time_and_nothing_else(tmp_path):
    first, second = (verify_app.build(tmp_path / name) for name in ("a.pyz", "b.pyz"))
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pyz", "b.pyz"]
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
    assert {"__main__.py", "utils/__init__.py", "utils/verify/command.py", "utils/artefact/__init__.py"} <= names
    assert {"utils/artefact/tarball.py", "utils/parity/golden.py"} <= names
    assert (
        not {"utils/checkpoints/download.py", "utils/families/convmixer/source.py", "utils/artefact/staging.py"} & names
    )


def test_interrupted_it_says_so(download, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(numbers, "check_saved_model", interrupt)
    assert main([str(download)]) == 130
    assert "not everything was verified" in capsys.readouterr().err


def test_golden_numbers_are_computed_in_float32_on_any_device(monkeypatch):
    tf = pytest.importorskip("tensorflow")
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    try:
        tf.config.experimental.enable_tensor_float_32_execution(True)
        numbers.import_tensorflow()
        assert not tf.config.experimental.tensor_float_32_execution_enabled()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
