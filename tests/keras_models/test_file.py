"""`.keras` files: the same bytes each time, whole or not at all, and read without running what is in them."""

import json
import subprocess
import sys
import zipfile

import keras
import keras_tiny
import numpy as np
import pytest
from keras_tiny import GELU, MIXER

from utils.errors import PackagingError
from utils.keras_models import archive, saving
from utils.keras_models.archive import CONFIG, METADATA, WEIGHTS

RECORD = {"name": "a", "head": "classification", "weights": "synthetic", "labels": ["Kätzchen"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {name: saving.save(keras_tiny.built(name), folder / f"{name}.keras", RECORD) for name in (GELU, MIXER)}


@pytest.fixture
def file(files):
    return files[MIXER]


def members(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewritten(path, target, **changes):
    """A copy with other members; `config` is a function of the JSON object, the others bytes."""
    contents = members(path)
    config = json.loads(contents[CONFIG])
    changes.pop("config", lambda _: None)(config)
    contents |= {CONFIG: json.dumps(config)} | changes
    with zipfile.ZipFile(target, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return target


@pytest.mark.parametrize("name", [GELU, MIXER])
def test_comes_back_as_it_was(name, files):
    for before, after in zip(keras_tiny.built(name).variables, saving.load(files[name]).variables, strict=True):
        assert before.path == after.path
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", [GELU, MIXER])
def test_it_is_what_keras_reads_of_whatever_version(name, files):
    """With a fourth member, Keras would unpack the file whenever it loads it; Keras 3.10 stops at newer arguments."""
    found = members(files[name])
    assert sorted(found) == sorted([CONFIG, METADATA, WEIGHTS])
    newer = ("input_axes", "output_axes", "quantization_config", "renorm", "ragged", "rms_scaling")
    assert [word for word in newer if word in found[CONFIG].decode()] == []


def test_anybody_reads_the_record_in_a_line(file):
    record = json.loads(zipfile.ZipFile(file).read("metadata.json"))["record"]
    assert record == RECORD == archive.read_record(file)


@pytest.mark.slow
def test_anybody_loads_it_without_this_project(file, tmp_path):
    code = f"import keras; model = keras.saving.load_model({str(file)!r}, safe_mode=True); print(model.output_shape)"
    environment = {"HOME": str(tmp_path), "KERAS_BACKEND": "torch", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "(None, 10)"


def test_interrupted_writing_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.keras"
    path.write_bytes(b"before")
    monkeypatch.setattr(archive.shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        saving.save(keras_tiny.built(MIXER), path, {})
    assert [each.name for each in tmp_path.iterdir()] == ["a.keras"]
    assert path.read_bytes() == b"before"


def damaged(kind, files, target):
    data, contents = files[MIXER].read_bytes(), members(files[MIXER])
    if kind == "cut":
        target.write_bytes(data[: len(data) // 2])
    elif kind == "a byte of the weights":
        position = data.index(contents[WEIGHTS][3000:3100]) + 50
        target.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    elif kind == "no JSON":
        rewritten(files[MIXER], target, **{CONFIG: b"[" * 100_000})
    elif kind == "another model's weights":
        rewritten(files[MIXER], target, **{WEIGHTS: members(files[GELU])[WEIGHTS]})


@pytest.mark.parametrize("kind", ["cut", "a byte of the weights", "no JSON", "another model's weights", "missing"])
def test_damaged_file_is_named(kind, files, tmp_path):
    damaged(kind, files, tmp_path / "bad.keras")
    with pytest.raises(PackagingError, match=r"bad\.keras"):
        saving.load(tmp_path / "bad.keras")


def test_file_without_a_record_is_none_of_ours(file, tmp_path):
    with pytest.raises(PackagingError, match=r"a\.keras: metadata\.json has no 'record'"):
        archive.read_record(rewritten(file, tmp_path / "a.keras", **{METADATA: b"{}"}))


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        *(("keras.layers", layer) for layer in ("Lambda", "TFSMLayer", "TorchModuleWrapper")),
        *((module, "Dense") for module in ("os", "utils.keras_models.saving", "keras.utils", None)),
    ],
)
def test_layer_that_brings_code_is_refused_before_keras_sees_it(module, layer, file, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras was asked to load it"))
    change = {"module": module, "class_name": layer}
    planted = rewritten(
        file, tmp_path / "bad.keras", config=lambda config: config["config"]["layers"][3].update(change)
    )
    with pytest.raises(PackagingError, match=rf"bad\.keras: .*{layer}.*code"):
        saving.load(planted)
