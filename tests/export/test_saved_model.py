"""The SavedModel as its users meet it: TensorFlow, TF Hub, both Keras, the command line; and writing it whole."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tiny import small

from utils.errors import PackagingError
from utils.export import saved_model

ROOT = Path(__file__).resolve().parents[2]
NAME = "convmixer_tiny"
TOLERANCE = 1e-5  # relative, as the parity gate's
TRAINABLE = 30  # 7 layers of convolution and BatchNorm with 4 arrays each, and the head's 2


def images():
    return tf.constant(tiny.expected(NAME)["inputs"])


def values(variables):
    return [np.array(variable) for variable in variables]


@pytest.fixture
def directory(saved):
    return str(saved(NAME, "classification", 48))


# --- loading


def test_loaded_by_tensorflow_it_has_the_reusable_interface(directory):
    model = tf.saved_model.load(directory)
    assert tiny.relative_error(model(images()), tiny.expected(NAME)["logits"]) <= TOLERANCE
    assert tiny.relative_error(model(images(), training=False), tiny.expected(NAME)["logits"]) <= TOLERANCE
    assert len(model.trainable_variables) == TRAINABLE
    assert len(model.variables) == TRAINABLE + 14
    assert list(model.regularization_losses) == []
    found = model.signatures["serving_default"](inputs=images())
    assert list(found) == ["logits"]
    assert tiny.relative_error(found["logits"], tiny.expected(NAME)["logits"]) <= TOLERANCE


def test_feature_extractor_s_signature_gives_features(saved):
    model = saved_model.load_model(saved(NAME, "fe", None))
    found = model.signatures["serving_default"](inputs=images())
    assert list(found) == ["features"]
    assert tiny.relative_error(found["features"], tiny.expected(NAME)["features"]) <= TOLERANCE


def test_loaded_by_hub_it_gives_the_same(directory):
    hub = pytest.importorskip("tensorflow_hub")
    model = hub.load(directory)
    assert tiny.relative_error(model(images()), tiny.expected(NAME)["logits"]) <= TOLERANCE
    assert len(model.trainable_variables) == TRAINABLE


@pytest.fixture
def keras_2_model(directory):
    hub, tf_keras = pytest.importorskip("tensorflow_hub"), pytest.importorskip("tf_keras")
    layer = hub.KerasLayer(directory, trainable=True)
    model = tf_keras.Sequential([tf_keras.Input((48, 48, 3)), layer])
    model.compile(tf_keras.optimizers.SGD(0.01), "mse")
    return model


def test_hub_keras_layer_sees_every_weight_and_the_statistics_as_not_trainable(keras_2_model):
    assert len(keras_2_model.trainable_weights) == TRAINABLE
    assert len(keras_2_model.non_trainable_weights) == 14
    found = keras_2_model.predict(images().numpy(), verbose=0)
    assert tiny.relative_error(found, tiny.expected(NAME)["logits"]) <= TOLERANCE


def test_a_training_step_through_hub_keras_layer_moves_every_weight_and_the_statistics(keras_2_model):
    before = {variable.name: variable.numpy() for variable in keras_2_model.variables}
    keras_2_model.fit(images().numpy(), np.eye(4, 10, dtype=np.float32), epochs=1, batch_size=4, verbose=0)
    still = [v.name for v in keras_2_model.variables if np.array_equal(v.numpy(), before[v.name])]
    assert len(before) == TRAINABLE + 14
    assert still == []


def test_prediction_through_hub_keras_layer_moves_no_statistics(keras_2_model):
    before = values(keras_2_model.variables)
    keras_2_model.predict(images().numpy(), verbose=0)
    for value, found in zip(before, values(keras_2_model.variables), strict=True):
        np.testing.assert_array_equal(found, value)


def test_keras_3_layer_of_the_signature_sees_every_trainable_weight_and_trains_it(directory):
    keras = pytest.importorskip("keras", minversion="3")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TFSMLayer needs Keras on TensorFlow")
    layer = keras.layers.TFSMLayer(directory, call_endpoint="serving_default")
    assert len(layer.trainable_weights) == TRAINABLE
    assert len(layer.non_trainable_weights) == 14
    inputs = keras.Input((48, 48, 3))
    model = keras.Model(inputs, layer(inputs)["logits"])
    assert tiny.relative_error(model(images()), tiny.expected(NAME)["logits"]) <= TOLERANCE
    before = values(layer.trainable_weights)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(images().numpy(), np.eye(4, 10, dtype=np.float32), epochs=1, batch_size=4, verbose=0)
    for value, found in zip(before, values(layer.trainable_weights), strict=True):
        assert not np.array_equal(found, value)


def test_saved_model_cli_shows_signatures_dtypes_and_the_static_last_dimension(directory):
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", directory, "--all"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines()]
    start = lines.index("signature_def['serving_default']:")
    shown = lines[start : start + 14]
    for part in (
        "inputs['inputs'] tensor_info:",
        "shape: (-1, 48, 48, 3)",
        "outputs['logits'] tensor_info:",
        "shape: (-1, 10)",
    ):
        assert part in shown, done.stdout
    assert shown.count("dtype: DT_FLOAT") == 2
    assert "Function Name: '__call__'" in lines


@pytest.mark.parametrize(("head", "output"), tiny.OUTPUTS.items())
def test_signatures_are_described_with_dtypes_and_shapes(saved, head, output):
    size = None if head == "fe" else 48
    units = tiny.expected(NAME)[output].shape[1]
    assert saved_model.describe_signatures(saved_model.load_model(saved(NAME, head, size))) == {
        "serving_default": {
            "inputs": {"inputs": {"dtype": "float32", "shape": [None, size, size, 3]}},
            "outputs": {output: {"dtype": "float32", "shape": [None, units]}},
        }
    }


def test_further_signatures_are_saved_beside_the_default_one(tmp_path):
    def image_signatures(serving):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.uint8, name="images")])
        def serving_image(images):
            return serving(inputs=tf.cast(images, tf.float32))

        return {"serving_image": serving_image.get_concrete_function()}

    path = saved_model.save_model(small(), tmp_path / "model", image_signatures)
    described = saved_model.describe_signatures(saved_model.load_model(path))
    assert set(described) == {"serving_default", "serving_image"}
    assert described["serving_image"]["inputs"] == {"images": {"dtype": "uint8", "shape": [None, 8, 8, 3]}}


def test_weights_are_stored_once(directory):
    weights = sum(array.nbytes for key, array in tiny.weights(NAME).items() if "num_batches" not in key)
    stored = sum(path.stat().st_size for path in Path(directory, "variables").iterdir())
    graph = Path(directory, "saved_model.pb").read_bytes()
    assert weights <= stored < 1.5 * weights
    kernel = tiny.weights(NAME)["blocks.1.1.weight"][:, :, 0, 0]
    assert kernel.T.tobytes() not in graph
    assert kernel.tobytes() not in graph


def test_saving_reloads_to_a_model_that_can_be_saved_again(directory, tmp_path):
    model = tf.saved_model.load(directory)
    tf.saved_model.save(model, str(tmp_path / "again"), signatures=model.signatures)
    again = saved_model.load_model(tmp_path / "again")
    # Another graph, which may be optimised to another order of sums.
    assert tiny.relative_error(again(images()), model(images()).numpy()) <= TOLERANCE
    for value, found in zip(values(model.variables), values(again.variables), strict=True):
        np.testing.assert_array_equal(found, value)


def test_training_pass_puts_the_statistics_back(directory):
    model = saved_model.load_model(directory)
    before = values(model.variables)
    _, updated = saved_model.training_pass(model, images().numpy())
    assert len(updated) == 14
    for value, found in zip(before, values(model.variables), strict=True):
        np.testing.assert_array_equal(found, value)


# --- writing it whole, or not at all


def test_existing_folder_is_refused_and_left_alone(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(PackagingError, match=r"model exists already; remove it or choose another"):
        saved_model.save_model(small(), target)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "precious.txt"]


KILLED = """
import os, signal, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from utils.export import saved_model
sys.path.insert(0, "tests")
from tiny import small
# The last moment at which the folder has not got its name: everything is written.
saved_model.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
saved_model.save_model(small(), sys.argv[1])
"""


def test_killed_process_leaves_nothing_under_the_final_name_and_the_next_one_succeeds(tmp_path):
    target = tmp_path / "model"
    done = subprocess.run([sys.executable, "-c", KILLED, target], cwd=ROOT, capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    assert list(left.rglob("variables.index"))  # it was killed while there was something to lose
    assert saved_model.load_model(saved_model.save_model(small(), target)) is not None


def test_folder_that_cannot_be_written_is_an_error_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(PackagingError, match=r"model could not be written"):
        saved_model.save_model(small(), tmp_path / "file" / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PackagingError, match=r"model could not be written"):
        saved_model.save_model(small(), tmp_path / "model")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), tf.errors.ResourceExhaustedError(None, None, "full")],
    ids=["system", "TensorFlow"],
)
def test_full_disk_is_said_so_and_what_was_written_is_removed(tmp_path, monkeypatch, error):
    save = tf.saved_model.save

    def fail(*args, **kwargs):
        save(*args, **kwargs)
        raise error

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(PackagingError, match="no space is left on the disk"):
        saved_model.save_model(small(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_really_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", tmp_path]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(PackagingError, match="no space is left on the disk"):
            saved_model.save_model(small(size=500_000), tmp_path / "model")
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("content", [None, b"", b"<html>not found</html>"])
def test_folder_that_is_no_saved_model_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(PackagingError, match=f"{tmp_path.name}.* is not a SavedModel"):
        saved_model.load_model(tmp_path)
