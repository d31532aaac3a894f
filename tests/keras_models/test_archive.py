"""`.keras` files: the same bytes each time, whole or not at all, and read without running what is in them."""

import json
import os
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
def file(tmp_path_factory):
    return saving.save(keras_tiny.built(MIXER), tmp_path_factory.mktemp("file") / "a.keras", RECORD)


def members(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def rewritten(path, target, change):
    contents = members(path)
    change(contents)
    with zipfile.ZipFile(target, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return target


def test_record_is_read_in_two_lines(file):
    record = json.loads(zipfile.ZipFile(file).read("metadata.json"))["record"]
    assert record == RECORD == archive.read_record(file)


@pytest.mark.slow
def test_same_model_gives_the_same_bytes_in_any_process(file, tmp_path):
    """Keras numbers shared objects by their place in memory, and dates what it writes."""
    assert saving.save(keras_tiny.built(MIXER), tmp_path / "a.keras", RECORD).read_bytes() == file.read_bytes()
    code = (
        "import sys; sys.path[:0] = sys.argv[3:]; import json, pathlib, keras_tiny;"
        "from utils.keras_models import saving;"
        "saving.save(keras_tiny.built('mixer_tiny'), pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]))"
    )
    paths = [p for p in sys.path if p.endswith("tests")] + [os.getcwd()]
    command = [sys.executable, "-c", code, str(tmp_path / "b.keras"), json.dumps(RECORD), *paths]
    subprocess.run(command, check=True, env=os.environ | {"KERAS_BACKEND": "tensorflow", "PYTHONHASHSEED": "1"})
    assert (tmp_path / "b.keras").read_bytes() == file.read_bytes()


def test_has_keras_s_members_and_no_more(file):
    """With a fourth, Keras unpacks the whole file into a temporary folder whenever it loads it."""
    assert sorted(members(file)) == sorted([CONFIG, METADATA, WEIGHTS])


@pytest.mark.parametrize("name", [GELU, MIXER])
def test_names_no_argument_that_an_older_keras_refuses(name, tmp_path):
    """Keras 3.10 loads such files, and would stop at any of these."""
    text = members(saving.save(keras_tiny.built(name), tmp_path / "a.keras", {}))[CONFIG].decode()
    newer = ("input_axes", "output_axes", "quantization_config", "renorm", "ragged", "rms_scaling")
    assert [word for word in newer if word in text] == []
    assert '"epsilon"' in text


@pytest.mark.parametrize("name", [GELU, MIXER])
def test_comes_back_as_it_was(name, tmp_path):
    model = keras_tiny.built(name)
    loaded = saving.load(saving.save(model, tmp_path / "a.keras", {}))
    for before, after in zip(model.variables, loaded.variables, strict=True):
        assert before.path == after.path
        np.testing.assert_array_equal(before, after)


def test_interrupted_writing_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.keras"
    path.write_bytes(b"before")
    monkeypatch.setattr(archive.shutil, "copyfileobj", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        saving.save(keras_tiny.built(MIXER), path, {})
    assert [each.name for each in tmp_path.iterdir()] == ["a.keras"]
    assert path.read_bytes() == b"before"


def damaged(kind, file, target):
    data = file.read_bytes()
    if kind == "cut":
        target.write_bytes(data[: len(data) // 2])
    elif kind == "a byte of the weights":
        position = data.index(members(file)[WEIGHTS][3000:3100]) + 50
        target.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    elif kind == "no JSON":
        rewritten(file, target, lambda contents: contents.update({CONFIG: b"[" * 100_000}))
    elif kind == "another model's weights":
        other = saving.save(keras_tiny.built(GELU), target.with_name("other.keras"), {})
        rewritten(file, target, lambda contents: contents.update({WEIGHTS: members(other)[WEIGHTS]}))
    return target


@pytest.mark.parametrize("kind", ["cut", "a byte of the weights", "no JSON", "another model's weights", "missing"])
def test_damaged_file_is_named(kind, file, tmp_path):
    target = damaged(kind, file, tmp_path / "bad.keras")
    with pytest.raises(PackagingError, match=r"bad\.keras.*(Get the file again|No such file)"):
        saving.load(target)


def test_file_without_a_record_is_none_of_ours(tmp_path):
    keras_tiny.built(MIXER).save(tmp_path / "a.keras")
    with pytest.raises(PackagingError, match=r"a\.keras: metadata\.json has no 'record'"):
        archive.read_record(tmp_path / "a.keras")


@pytest.mark.parametrize("layer", ["Lambda", "TFSMLayer", "TorchModuleWrapper"])
def test_layer_that_brings_code_is_refused_before_keras_sees_it(layer, file, tmp_path, monkeypatch):
    def plant(contents):
        config = json.loads(contents[CONFIG])
        config["config"]["layers"][3] |= {"module": "keras.layers", "class_name": layer}
        contents[CONFIG] = json.dumps(config)

    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras was asked to load it"))
    target = rewritten(file, tmp_path / "bad.keras", plant)
    with pytest.raises(PackagingError, match=rf"bad\.keras: .*{layer}.*code"):
        saving.load(target)


def test_lambda_of_keras_s_own_making_is_refused(tmp_path):
    inputs = keras.Input((8,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: 2 * x)(inputs)).save(tmp_path / "bad.keras")
    with pytest.raises(PackagingError, match=r"bad\.keras: .*Lambda"):
        saving.load(tmp_path / "bad.keras")


@pytest.mark.parametrize("module", ["os", "utils.keras_models.saving", "keras.utils", None])
def test_class_of_another_module_is_refused(module, file, tmp_path):
    def plant(contents):
        config = json.loads(contents[CONFIG])
        config["config"]["layers"][3] |= {"module": module}
        contents[CONFIG] = json.dumps(config)

    with pytest.raises(PackagingError, match=r"bad\.keras"):
        saving.load(rewritten(file, tmp_path / "bad.keras", plant))


def test_missing_backend_is_named(monkeypatch):
    block = "import sys\nsys.modules['jax'] = None\nfrom utils.keras_models.saving import import_keras\n"
    code = "try: import_keras()\nexcept Exception as e: print(type(e).__name__, e)"
    environment = os.environ | {"KERAS_BACKEND": "jax"}
    done = subprocess.run(
        [sys.executable, "-c", block + code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("PackagingError Keras cannot be imported with the backend 'jax'")
    assert "KERAS_BACKEND" in done.stdout
