"""Smaller files: half the bytes or fewer, the same interface, and each held to the source by its own tolerance."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import artefacts
import numpy as np
import pytest

from utils.artefact import lite_file
from utils.artefact.manifest import packed_manifest
from utils.artefact.opening import open_model
from utils.errors import PackagingError, ParityError
from utils.files import hash_file
from utils.smaller import command as smaller
from utils.smaller.command import KINDS, make_smaller
from utils.verify.command import main as verify

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # TFLite's converter takes seconds even for the tiny models
CONVMIXER, MIXER = "convmixer_tiny_classification", "mixer_tiny_classification"
FILES = {
    CONVMIXER: [f"{CONVMIXER}{end}" for end in ("_float32.tflite", "_float16.tflite", "_int8.tflite")],
    MIXER: [f"{MIXER}{end}" for end in ("_int8.tflite",)],  # each costs seconds
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Smaller files of the tiny ConvMixer and Mixer, beside what they were made from."""
    folder = tmp_path_factory.mktemp("smaller")
    for name, kinds in ((CONVMIXER, KINDS), (MIXER, ("tflite-int8",))):
        tarball = artefacts.publish(folder, name.removesuffix("_classification")).tarball
        assert [make_smaller(tarball, kind).name for kind in kinds] == FILES[name]
    return folder


def manifest_of(path):
    return json.loads(path.read_text(encoding="utf-8"))


def golden_of(folder):
    from utils.verify.numbers import golden_of

    return golden_of(folder / CONVMIXER)


def relative_error(found, golden):
    return np.abs(np.asarray(found) - golden.outputs).max() / max(1, np.abs(golden.outputs).max())


@pytest.mark.parametrize("name", [CONVMIXER, MIXER])
def test_every_file_verifies_itself(folder, name, capsys):
    assert verify([str(folder / file) for file in FILES[name]]) == 0
    assert capsys.readouterr().out.count("right numbers") == len(FILES[name])


@pytest.mark.parametrize("name", [CONVMIXER, MIXER])
def test_each_file_has_a_manifest_with_its_own_error_and_tolerance(folder, name):
    beside = {path.name: manifest_of(path) for path in folder.glob(f"{name}_*.json")}
    assert len(beside) == len(FILES[name])
    tolerances = {}
    for manifest in beside.values():
        rows = [row for row in manifest["parity"]["rows"] if row["output"] == "logits"]
        assert rows
        assert all(0 < row["relative_l2"] <= row["tolerance"] for row in rows)
        assert manifest["derived_from"]["files"] == manifest_of(folder / f"{name}.json")["files"]
        assert manifest["weights"] == "custom"
        tolerances[manifest["storage"]] = manifest["parity"]["tolerance"]["logits"]
    assert tolerances.get("float32", 1e-5) == 1e-5
    assert 1e-5 < tolerances.get("float16", 5e-3) < tolerances["int8"] < 0.1


# --- TFLite


@pytest.mark.parametrize("file", [file for name in FILES for file in FILES[name] if file.endswith(".tflite")])
def test_tflite_has_its_own_gelu_and_no_operation_from_elsewhere(folder, file):
    used = manifest_of(folder / f"{file}.json")["operators"]
    assert used["GELU"] == (7 if file.startswith(CONVMIXER) else 4)
    assert not [op for op in used if op.startswith(("Flex", "CUSTOM", "STABLEHLO"))]
    assert not {"ERF", "TANH", "BROADCAST_TO"} & set(used)


def test_unzip_finds_what_rides_in_it(folder, tmp_path):
    path = folder / f"{MIXER}_int8.tflite"
    with zipfile.ZipFile(path) as archive:
        inside = json.loads(archive.read("manifest.json"))
        assert inside == packed_manifest(manifest_of(path.with_name(f"{path.name}.json")))
        assert "seconds" not in inside
        assert "minimum_tensorflow" not in inside  # of the SavedModel
        assert set(archive.namelist()) == {"manifest.json", "golden.npz"}
    model = lite_file.unpack_lite(path, tmp_path / "unpacked") / "model.tflite"
    assert hash_file(model) == inside["files"]["model.tflite"]
    assert path.read_bytes().startswith(model.read_bytes())


def flipped(path, folder):
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 1  # in the model
    (folder / path.name).write_bytes(data)


def without_archive(path, folder):
    shutil.copyfile(lite_file.unpack_lite(path, folder / "u") / "model.tflite", folder / path.name)


def with_more(path, folder):
    shutil.copyfile(path, folder / path.name)
    with zipfile.ZipFile(folder / path.name, "a") as archive:
        archive.writestr("../../evil", b"evil")


@pytest.mark.parametrize(
    ("change", "stage", "text"),
    [
        (flipped, "files", "model.tflite is not the file that was published"),
        (without_archive, "contents", "Expected a .tflite file with manifest.json"),
        (with_more, "contents", "evil"),
    ],
)
def test_a_damaged_tflite_file_is_named_and_not_run(folder, tmp_path, capsys, monkeypatch, change, stage, text):
    from utils.verify import numbers

    monkeypatch.setattr(numbers, "check_lite", lambda *_: pytest.fail("the model was run"))
    change(folder / f"{CONVMIXER}_float32.tflite", tmp_path)
    assert verify([str(tmp_path / f"{CONVMIXER}_float32.tflite")]) == 1
    (failed,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[1:2] == ["FAIL"]]
    assert failed.split()[0] == stage
    assert text in failed
    assert not list(tmp_path.rglob("evil"))


def test_tanh_gelu_in_the_converted_model_fails_its_gate_and_leaves_nothing(folder, tmp_path, monkeypatch):
    import tiny

    from utils.export import saved_model
    from utils.export.onnx_to_tf import export_tensorflow
    from utils.smaller import making

    graph = tiny.graph("convmixer_tiny")
    for node in graph.graph.node:
        if node.op_type == "Gelu":
            node.attribute[0].s = b"tanh"
    faulty = saved_model.save_model(
        export_tensorflow(graph, tiny.weights("convmixer_tiny"), 48, "logits"), tmp_path / "f"
    )
    monkeypatch.setattr(making, "_in_plain_operations", lambda *_: faulty)
    with pytest.raises(ParityError, match="logits, golden"):
        making.make_lite(open_model(str(folder / CONVMIXER)), "float32", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- the command


def test_one_file_that_fails_does_not_stop_the_others_and_is_the_status(folder, tmp_path, capfd):
    arguments = [str(tmp_path / "absent.tar.gz"), str(folder / CONVMIXER), "--output-dir", str(tmp_path)]
    assert smaller.main([*arguments, "--kinds", "tflite-float32"]) == 1
    shown = capfd.readouterr()
    assert "absent.tar.gz': there is no such file" in shown.err
    assert re.search(rf"{CONVMIXER}_float32\.tflite: 0\.\d MB, relative error \S+ <= 1\.0e-05", shown.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{CONVMIXER}_float32.tflite",
        f"{CONVMIXER}_float32.tflite.json",
    ]


def test_what_was_altered_or_renamed_is_refused(folder, tmp_path):
    shutil.copyfile(folder / f"{CONVMIXER}.tar.gz", tmp_path / "renamed.tar.gz")
    with pytest.raises(PackagingError, match="another artefact in this one's place, or a renamed file"):
        make_smaller(tmp_path / "renamed.tar.gz", "tflite-int8", tmp_path / "out")
    shutil.copytree(folder / CONVMIXER, tmp_path / CONVMIXER)
    (tmp_path / CONVMIXER / "variables" / "more").write_bytes(b"")
    with pytest.raises(PackagingError, match="variables/more is not in the manifest"):
        make_smaller(tmp_path / CONVMIXER, "tflite-int8", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_feature_extractor_gets_no_tflite_files(tmp_path):
    tarball = artefacts.publish(tmp_path, head="fe").tarball
    assert [make_smaller(tarball, kind) for kind in KINDS] == [None, None, None]


def test_the_same_artefact_gives_the_same_bytes_in_another_process(folder, tmp_path):
    """Alone and after another file, from the folder and from the tarball, with other orders of hashes."""
    orders = {"1": (f"{CONVMIXER}", f"{MIXER}"), "2": (f"{MIXER}.tar.gz", f"{CONVMIXER}.tar.gz")}
    runs = []
    for seed, sources in orders.items():
        command = [sys.executable, "-m", "utils.smaller", *(str(folder / source) for source in sources)]
        options = ["--output-dir", str(tmp_path / seed), "--kinds", "tflite-float16", "tflite-int8"]
        runs.append(subprocess.Popen([*command, *options], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}))
    assert [run.wait() for run in runs] == [0, 0]
    found = [{path.name: hash_file(path) for path in (tmp_path / seed).glob("*.tflite")} for seed in orders]
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_help_loads_no_framework():
    code = "import sys, utils.smaller, utils.verify; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
