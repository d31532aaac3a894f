"""Smaller files: half the bytes or fewer, the same interface, and each held to the source by its own tolerance."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import artefacts
import numpy as np
import pytest

from utils.artefact import lite_file
from utils.artefact.manifest import packed_manifest
from utils.artefact.opening import open_model
from utils.artefact.tarball import extract_tarball
from utils.errors import PackagingError, ParityError
from utils.export.warmup import WARMUP
from utils.files import hash_file
from utils.smaller import command as smaller
from utils.smaller.command import KINDS, make_smaller
from utils.verify.command import main as verify

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow  # TFLite's converter takes seconds even for the tiny models
CONVMIXER, MIXER = "convmixer_tiny_classification", "mixer_tiny_classification"
FILES = {
    CONVMIXER: [
        f"{CONVMIXER}{end}" for end in ("_float16.tar.gz", "_float32.tflite", "_float16.tflite", "_int8.tflite")
    ],
    MIXER: [f"{MIXER}{end}" for end in ("_float16.tar.gz", "_int8.tflite")],  # each costs seconds
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Smaller files of the tiny ConvMixer and Mixer, beside what they were made from."""
    folder = tmp_path_factory.mktemp("smaller")
    for name, kinds in ((CONVMIXER, KINDS), (MIXER, ("float16", "tflite-int8"))):
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
        gradients = [row["passed"] for row in manifest["parity"]["rows"] if row["output"] == "gradients"]
        assert gradients == [True] * (0 if "format" in manifest else 30)
        tolerances[manifest.get("format"), manifest["storage"]] = manifest["parity"]["tolerance"]["logits"]
    assert tolerances.get(("tflite", "float32"), 1e-5) == 1e-5
    # TFLite rounds vectors too.
    assert tolerances[None, "float16"] < tolerances.get(("tflite", "float16"), 5e-3) < 2e-2
    assert 1e-5 < tolerances[None, "float16"] < 5e-3
    assert tolerances[None, "float16"] < tolerances["tflite", "int8"] < 0.1


def test_the_table_of_smaller_files_has_each_with_its_own_figures(folder, tmp_path, capsys):
    from benchmarks import smaller as table

    table.main([str(folder), "--output-dir", str(tmp_path)])
    text = (tmp_path / "smaller.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(map(len, FILES.values())) + len(FILES)  # and what they were made from
    found = table.samples(folder)
    bytes_of = {sample["artefact"]: sample["bytes"] for sample in found if sample["file"] == "TFLite, int8"}
    assert bytes_of == {name: (folder / f"{name}_int8.tflite").stat().st_size for name in FILES}
    assert all(0 < sample["relative"] <= sample["tolerance"] for sample in found)


# --- float16


@pytest.fixture(scope="module")
def half(folder, tmp_path_factory):
    return str(extract_tarball(folder / f"{CONVMIXER}_float16.tar.gz", tmp_path_factory.mktemp("half") / "model"))


def test_kernels_are_stored_as_float16_once_and_are_float32_and_trainable_when_loaded(folder, half):
    import tensorflow as tf

    reader = tf.train.load_checkpoint(f"{half}/variables/variables")
    types = {key: value for key, value in reader.get_variable_to_dtype_map().items() if value.is_floating}
    shapes = reader.get_variable_to_shape_map()
    assert {types[key] for key in types if len(shapes[key]) >= 2} == {tf.float16}
    assert {types[key] for key in types if len(shapes[key]) == 1} == {tf.float32}
    model, original = tf.saved_model.load(half), tf.saved_model.load(str(folder / CONVMIXER))
    assert [v.name for v in model.trainable_variables] == [v.name for v in original.trainable_variables]
    assert {v.dtype for v in model.variables} == {tf.float32}
    assert len(types) == len(model.variables)
    size = sum(2 * v.shape.num_elements() if len(v.shape) > 1 else 4 * v.shape.num_elements() for v in model.variables)
    assert Path(half, "variables/variables.data-00000-of-00001").stat().st_size < size + 20_000  # and the object graph
    assert Path(half, WARMUP).read_bytes() == (folder / CONVMIXER / WARMUP).read_bytes()


def test_tf_hub_keras_and_a_serving_session_load_it_and_train_it(folder, half):
    import tensorflow as tf

    golden = golden_of(folder)
    hub, tf_keras, keras = (pytest.importorskip(name) for name in ("tensorflow_hub", "tf_keras", "keras"))
    layer = hub.KerasLayer(half, trainable=True)
    assert len(layer.trainable_weights) == 30
    assert relative_error(layer(golden.inputs), golden) < 1e-3
    layer_3 = keras.layers.TFSMLayer(half, call_endpoint="serving_default")
    assert len(layer_3.trainable_weights) == 30
    assert relative_error(layer_3(golden.inputs)["logits"], golden) < 1e-3
    # As TensorFlow Serving loads: a session, and the graph's own restore operation.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], half).signature_def["serving_default"]
        feed = {signature.inputs["inputs"].name: golden.inputs}
        assert relative_error(session.run(signature.outputs["logits"].name, feed), golden) < 1e-3

    model = tf_keras.Sequential([tf_keras.Input((48, 48, 3)), layer])
    model.compile(tf_keras.optimizers.SGD(0.01), "mse")
    before = [v.numpy() for v in model.trainable_variables]
    model.fit(np.random.default_rng(0).normal(size=(4, 48, 48, 3)), np.eye(4, 10), epochs=1, batch_size=4, verbose=0)
    assert not [v.name for v, old in zip(model.trainable_variables, before, strict=True) if np.array_equal(v, old)]


def test_saved_again_after_training_it_keeps_every_bit(half, tmp_path):
    import tensorflow as tf

    model = tf.saved_model.load(half)
    for variable in model.trainable_variables:
        variable.assign_add(tf.fill(variable.shape, np.float32(1e-7)))
    expected = [v.numpy() for v in model.variables]
    tf.saved_model.save(model, str(tmp_path / "again"), signatures=model.signatures)
    again = tf.saved_model.load(str(tmp_path / "again"))
    for found, value in zip(again.variables, expected, strict=True):
        np.testing.assert_array_equal(found.numpy(), value)


def test_a_kernel_that_float16_cannot_hold_stops_it_and_leaves_nothing(folder, tmp_path):
    import tensorflow as tf

    from utils.smaller import making

    artefact = open_model(str(folder / CONVMIXER))
    model = tf.saved_model.load(str(artefact.folder))
    model.trainable_variables[0].assign_add(model.trainable_variables[0] * 0 + 1e5)
    tf.saved_model.save(model, str(tmp_path / "large"), signatures=model.signatures)
    shutil.copytree(artefact.folder / "assets.extra", tmp_path / "large" / "assets.extra")
    with pytest.raises(PackagingError, match="float16"):
        making.make_float16(replace(artefact, folder=tmp_path / "large"), tmp_path / "out")
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("value", [65_600, -65_600])  # a ReLU may make a finite output of what overflows
def test_a_kernel_just_beyond_float16_is_named(tmp_path, value):
    import tensorflow as tf

    from utils.smaller.float16 import save_as_float16

    module = tf.Module()
    module.variables_ = [tf.Variable([[1.0, value]], name="pointwise")]
    with pytest.raises(PackagingError, match=r"pointwise.* holds 65600, and float16 ends at 65504"):
        save_as_float16(module, tmp_path / "half")
    assert not (tmp_path / "half").exists()


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
        assert "minimum_tensorflow" not in inside["versions"]  # of the SavedModel
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


def with_bomb(path, folder):
    unpacked = lite_file.unpack_lite(path, folder / "u")
    associated = {name: (unpacked / name).read_bytes() for name in ("manifest.json", "golden.npz")}
    lite_file.pack_lite(unpacked / "model.tflite", associated, folder / path.name)
    with zipfile.ZipFile(folder / path.name, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.tsv", bytes(64 << 20))


@pytest.mark.parametrize(
    ("change", "stage", "text"),
    [
        (flipped, "files", "model.tflite is not the file that was published"),
        (without_archive, "contents", "expected a .tflite file with manifest.json"),
        (with_more, "contents", "evil"),
        (with_bomb, "contents", "labels.tsv unpacks to more than"),
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


def test_what_was_altered_or_made_smaller_already_is_refused(folder, tmp_path):
    with pytest.raises(PackagingError, match="smaller file already"):
        make_smaller(folder / f"{CONVMIXER}_float16", "float16", tmp_path / "out")
    shutil.copyfile(folder / f"{CONVMIXER}.tar.gz", tmp_path / "renamed.tar.gz")
    with pytest.raises(PackagingError, match="another artefact in this one's place, or a renamed file"):
        make_smaller(tmp_path / "renamed.tar.gz", "float16", tmp_path / "out")
    shutil.copytree(folder / CONVMIXER, tmp_path / CONVMIXER)
    (tmp_path / CONVMIXER / "variables" / "more").write_bytes(b"")
    with pytest.raises(PackagingError, match="variables/more is not in the manifest"):
        make_smaller(tmp_path / CONVMIXER, "float16", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_feature_extractor_gets_no_tflite_files(tmp_path):
    tarball = artefacts.publish(tmp_path, head="fe").tarball
    made = [make_smaller(tarball, kind) for kind in KINDS]
    assert made == [tmp_path / "convmixer_tiny_fe_float16.tar.gz", None, None, None]


def test_the_same_artefact_gives_the_same_bytes_in_another_process(folder, tmp_path):
    """Alone and after another file, from the folder and from the tarball, with other orders of hashes."""
    orders = {"1": (f"{CONVMIXER}", f"{MIXER}"), "2": (f"{MIXER}.tar.gz", f"{CONVMIXER}.tar.gz")}
    runs = []
    for seed, sources in orders.items():
        command = [sys.executable, "-m", "utils.smaller", *(str(folder / source) for source in sources)]
        options = ["--output-dir", str(tmp_path / seed), "--kinds", "float16", "tflite-int8"]
        runs.append(subprocess.Popen([*command, *options], cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}))
    assert [run.wait() for run in runs] == [0, 0]
    found = []
    for seed in orders:
        files = [*(tmp_path / seed).glob("*.tar.gz"), *(tmp_path / seed).glob("*.tflite")]
        found.append({path.name: hash_file(path) for path in files})
    assert len(found[0]) == 4
    assert found[0] == found[1]


def test_help_loads_no_framework():
    code = "import sys, utils.smaller, utils.verify; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
