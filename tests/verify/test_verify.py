"""What a downloader runs: right copies pass, and each kind of wrong one is named, before anything in it is run."""

import errno
import gzip
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import artefacts
import numpy as np
import pytest

from utils.artefact.tarball import extract_tarball, write_tarball
from utils.errors import PackagingError
from utils.files import hash_file
from utils.parity.golden import GOLDEN, Golden, golden_bytes, read_golden
from utils.verify import app as verify_app
from utils.verify import numbers
from utils.verify.command import main, verify
from utils.verify.files import SUMS

ROOT = Path(__file__).resolve().parents[2]
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


def tar_of(path, *members):
    """A tarball with the artefact's own files, and these members: (TarInfo, bytes)."""
    buffer = io.BytesIO()
    with tarfile.open(path) as source, tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in source:
            tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    path.write_bytes(buffer.getvalue())


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


def test_an_unpacked_folder_of_any_name_passes(published, tmp_path, capsys):
    shutil.copytree(published / NAME, tmp_path / "model")
    status, (lines,) = said(capsys, tmp_path / "model")
    assert status == 0
    assert "right numbers" in lines[-1]


def test_sums_as_other_tools_write_them_are_read(download):
    (download.parent / SUMS).write_text(f"{'0' * 64} *other.tar.gz\n\n{hash_file(download)} *./{download.name}\n")
    assert verify(download, download.parent)[0].passed


def test_several_files_are_all_verified_and_one_wrong_one_is_the_status(download, published, capsys):
    download.write_bytes(b"<html>not found</html>")
    status, (wrong, missing, right) = said(capsys, download, download.with_name("nothing.tar.gz"), published / NAME)
    assert status == 1
    assert "fetch it again" in wrong[-1]
    assert "no such file" in missing[1]
    assert "right numbers" in right[-1]


# --- a machine that cannot


def cannot(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def no_tensorflow(*_):
    try:
        raise ImportError("No module named 'tensorflow'")
    except ImportError as error:
        raise PackagingError("TensorFlow cannot be imported") from error


@pytest.mark.parametrize(
    ("where", "fault", "text"),
    [
        ("utils.artefact.tarball._write", cannot, "No space left"),
        ("utils.verify.files.hash_file", cannot, "No space left"),
        ("utils.verify.numbers.check_saved_model", no_tensorflow, "TensorFlow cannot be imported"),
    ],
)
def test_what_this_machine_lacks_is_not_said_of_the_copy_and_the_next_file_is_looked_at(
    download, published, capsys, monkeypatch, where, fault, text
):
    monkeypatch.setattr(where, fault)
    status, (lines, after) = said(capsys, download, download.with_name("nothing.tar.gz"))
    assert status == 1
    (failed,) = [line for line in lines if line.split()[1:2] == ["FAIL"]]
    assert failed.split()[0] == "machine"
    assert text in failed
    assert "says nothing about this copy" in lines[-1]
    assert "fetch it again" not in lines[-1]
    assert "fetch it again" in after[-1]


def test_a_manifest_without_the_tolerance_is_told(download, capsys):
    def change(folder):
        path = folder / "assets.extra" / "manifest.json"
        manifest = json.loads(path.read_text())
        manifest["parity"]["tolerance"] = {}
        path.write_text(json.dumps(manifest))

    repack(download, change)
    status, (lines,) = said(capsys, alone(download))
    assert status == 1
    assert "the manifest names no tolerance for logits" in "\n".join(lines)


# --- wrong copies


def fails(capsys, path, stage, *texts):
    status, (lines,) = said(capsys, path)
    assert status == 1
    failed = [line for line in lines if line.split()[1:2] == ["FAIL"]]
    assert [line.split()[0] for line in failed] == [stage], lines
    for text in texts:
        assert text in failed[0]
    assert "right numbers" not in lines[-1]
    return lines


@pytest.mark.usefixtures("nothing_is_run")
class TestNothingIsRunBeforeTheFilesAreKnown:
    def test_wrong_sum(self, download, capsys):
        (download.parent / SUMS).write_text(f"{'ab' * 32}  {download.name}\n")
        fails(capsys, download, "sum", "SHA256SUMS says abab")

    def test_damaged_sums(self, download, capsys):
        (download.parent / SUMS).write_text("<html>")
        fails(capsys, download, "sum", "SHA256SUMS is damaged")

    @pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
    def test_flipped_byte(self, download, capsys, where):
        data = bytearray(download.read_bytes())
        data[int(where * len(data))] ^= 16
        download.write_bytes(data)
        fails(capsys, download, "sum", "its SHA-256 is")
        fails(capsys, alone(download), "contents", str(download))

    def test_cut_short(self, download, capsys):
        download.write_bytes(download.read_bytes()[:-1000])
        fails(capsys, alone(download), "contents", "Nothing was unpacked")

    def test_swapped_file_inside(self, download, capsys):
        repack(download, lambda folder: (folder / "saved_model.pb").write_bytes(b"another graph"))
        fails(capsys, download, "files", "saved_model.pb is not the file that was published")

    def test_missing_and_additional_files(self, download, capsys):
        def change(folder):
            (folder / GOLDEN).rename(folder / "assets.extra" / "more.npz")

        repack(download, change)
        fails(capsys, download, "files", f"{GOLDEN} is missing", "assets.extra/more.npz is not in the manifest")

    def test_another_artefact_in_its_place(self, download, capsys):
        other = download.with_name("convmixer_768_32_classification.tar.gz")
        download.rename(other)
        fails(capsys, other, "name", f"inside is {NAME}")

    def test_another_manifest_beside_it(self, download, capsys):
        beside = download.with_name(FILES[1])
        beside.write_text(json.dumps(json.loads(beside.read_text()) | {"parameters": 1}))
        fails(capsys, download, "manifest", "differs from the one inside, in parameters")

    @pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
    def test_damaged_manifest_inside(self, download, capsys, text):
        repack(download, lambda folder: (folder / "assets.extra" / "manifest.json").write_text(text))
        fails(capsys, download, "contents", "manifest")

    def test_no_manifest_inside(self, download, capsys):
        repack(download, lambda folder: (folder / "assets.extra" / "manifest.json").unlink())
        fails(capsys, download, "contents", "not an artefact of this project")

    @pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/../../evil"])
    def test_path_traversal(self, download, capsys, name):
        tar_of(alone(download), (tarfile.TarInfo(name), b"evil"))
        fails(capsys, download, "contents", repr(name), "leads outside the folder")
        assert not list(download.parent.rglob("evil"))

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_link_or_pipe(self, download, capsys, kind):
        member = tarfile.TarInfo("variables/link")
        member.type, member.linkname = kind, "/etc/passwd"
        tar_of(alone(download), (member, b""))
        fails(capsys, download, "contents", "'variables/link'", "it is a link, a device")

    def test_bomb(self, download, capsys):
        alone(download)
        with gzip.open(download, "wb", 1) as file:
            member = tarfile.TarInfo("saved_model.pb")
            member.size = 256 << 20
            file.write(member.tobuf())
            for _ in range(256):
                file.write(bytes(1 << 20))
        assert download.stat().st_size < 2 << 20
        fails(capsys, download, "contents", "it unpacks to more than")

    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\3\4 a zip"])
    def test_what_is_no_tarball(self, download, capsys, content):
        download.write_bytes(content)
        fails(capsys, alone(download), "contents", "neither a .tar.gz nor a .tflite")


def change_manifest(folder, **changes):
    path = folder / "assets.extra" / "manifest.json"
    manifest = json.loads(path.read_text())
    for path_, value in changes.pop("files", {}).items():
        manifest["files"][path_] = value
    path.write_text(json.dumps(manifest | changes))
    return manifest


def with_outputs(folder, change):
    golden = read_golden((folder / GOLDEN).read_bytes(), "")
    changed = Golden(golden.coarse, golden.fine, golden.size, change(golden.outputs.copy()))
    (folder / GOLDEN).write_bytes(golden_bytes(changed))
    change_manifest(folder, files={GOLDEN: hash_file(folder / GOLDEN)})


def test_other_numbers_than_the_source_s_are_found_and_nobody_is_told_to_fetch_it_again(download, capsys):
    def change(outputs):
        outputs[0, 3] += 2e-5  # twice the gate
        return outputs

    repack(alone(download), lambda folder: with_outputs(folder, change))
    status, (lines,) = said(capsys, download)
    assert status == 1
    failed = [line for line in lines if line.split()[1:2] == ["FAIL"]]
    assert [line.split()[0] for line in failed] == ["numbers", "numbers"]
    assert re.search(r"relative L2 error \S+ > 1\.0e-05", failed[0])
    assert "not found right" in lines[-1]


def test_a_copy_without_golden_data_cannot_be_called_right(download, capsys):
    def change(folder):
        (folder / GOLDEN).unlink()
        manifest = change_manifest(folder)
        files = {path: value for path, value in manifest["files"].items() if path != GOLDEN}
        (folder / "assets.extra" / "manifest.json").write_text(json.dumps(manifest | {"files": files}))

    repack(alone(download), change)
    fails(capsys, download, "numbers", "carries no golden inputs")


def test_other_signatures_than_the_manifest_s_are_found(download, capsys):
    def change(folder):
        signature = {
            "inputs": {"inputs": {"dtype": "float32", "shape": [None, 64, 64, 3]}},
            "outputs": {"logits": {"dtype": "float32", "shape": [None, 10]}},
        }
        change_manifest(folder, signatures={"serving_default": signature})

    repack(alone(download), change)
    fails(capsys, download, "signatures", "[None, 48, 48, 3]", "[None, 64, 64, 3]")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (None, "serving_image, serving_image_bytes called"),
        (lambda images: images // 2, "logits differs between"),
        (lambda images: images[:1], "serving_image_bytes, logits: [1, 3]"),
        (lambda images: images / 0, "not finite"),
        (lambda images: images.no_such_method(), "cannot be called"),
    ],
    ids=["none", "other pixels", "other shape", "NaN", "exception"],
)
def test_image_signatures_are_called_and_compared(fault, text):
    import tensorflow as tf

    def serving_image(images):
        assert images.dtype == tf.uint8
        return {"logits": tf.reduce_mean(tf.cast(images, tf.float32), (1, 2))}

    def serving_image_bytes(image_bytes):
        images = np.stack([tf.io.decode_png(data, 3).numpy() for data in image_bytes])
        return serving_image(tf.constant(images)) if fault is None else faulty(images)

    def faulty(images):
        with np.errstate(all="ignore"):
            return {"logits": tf.constant(fault(images).mean((1, 2)), tf.float32)}

    signatures = {"serving_image": serving_image, "serving_image_bytes": serving_image_bytes}
    described = {name: {"outputs": {"logits": {"dtype": "float32", "shape": [None, 3]}}} for name in signatures}
    check = numbers._check_image_signatures(tf, SimpleNamespace(signatures=signatures), described)
    assert check.passed is (fault is None)
    assert text in check.text


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
if sys.argv[0].endswith(".pyz"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run_blocked(*arguments, cwd=ROOT):
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PYTHONPATH"] = str(ROOT) if cwd == ROOT else ""
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_needs_nothing_but_tensorflow(download):
    done = run_blocked("utils.verify", download)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right numbers" in done.stdout


def test_the_single_file_does_the_same_without_the_repository(download, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    app = verify_app.build(tmp_path / "elsewhere" / "verify.pyz")
    done = run_blocked(app, download, cwd=app.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "right numbers" in done.stdout
    download.write_bytes(download.read_bytes()[:-1])
    done = run_blocked(app, download, cwd=app.parent)
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
    assert not {"utils/checkpoints/download.py", "utils/models/convmixer.py", "utils/artefact/staging.py"} & names


def test_without_tensorflow_it_says_what_to_install(download, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    lines = fails(capsys, download, "machine", "pip install tensorflow")
    assert "says nothing about this copy" in lines[-1]


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


def test_numbers_that_are_not_finite_fail():
    golden = Golden(
        np.zeros((1, 4, 4, 3), np.int8),
        np.zeros((3, 3, 3), np.int8),
        np.array([8, 8], np.int32),
        np.ones((1, 2), np.float32),
    )
    manifest = {"parity": {"tolerance": {"logits": 1e-5}}}
    nan = np.full((1, 2), np.nan, np.float32)
    check = numbers._check_numbers(golden, lambda _: nan, "how", manifest, "logits")
    assert check.passed is False
    assert "NaN" in check.text
