"""The SavedModel as its users meet it: TensorFlow, TF Hub, both Keras, the command line; and writing it whole."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tiny import small

from utils.errors import PackagingError
from utils.export import saved_model

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


@pytest.mark.parametrize("load", ["tensorflow", "tensorflow_hub"])
def test_loaded_it_has_the_reusable_interface(directory, load):
    model = tf.saved_model.load(directory) if load == "tensorflow" else pytest.importorskip(load).load(directory)
    for logits in (model(images()), model(images(), training=False)):
        assert tiny.relative_error(logits, tiny.expected(NAME)["logits"]) <= TOLERANCE
    assert (len(model.trainable_variables), len(model.variables)) == (TRAINABLE, TRAINABLE + 14)
    assert list(model.regularization_losses) == []
    found = model.signatures["serving_default"](inputs=images())
    assert list(found) == ["logits"]
    assert tiny.relative_error(found["logits"], tiny.expected(NAME)["logits"]) <= TOLERANCE


def fitted(keras, model):
    """After a step of training, whatever it changed."""
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(images().numpy(), np.eye(4, 10, dtype=np.float32), epochs=1, batch_size=4, verbose=0)


def test_hub_keras_layer_predicts_without_moving_anything_and_trains_every_weight_and_the_statistics(directory):
    import tensorflow_hub as hub
    import tf_keras

    model = tf_keras.Sequential([tf_keras.Input((48, 48, 3)), hub.KerasLayer(directory, trainable=True)])
    assert (len(model.trainable_weights), len(model.non_trainable_weights)) == (TRAINABLE, 14)
    before = values(model.variables)
    found = model(images(), training=False)
    assert tiny.relative_error(found, tiny.expected(NAME)["logits"]) <= TOLERANCE
    assert all(map(np.array_equal, values(model.variables), before))
    fitted(tf_keras, model)
    assert not any(map(np.array_equal, values(model.variables), before))


def test_hub_keras_layer_of_float32_works_under_a_policy_of_float16(directory):
    import tensorflow_hub as hub
    import tf_keras

    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        layer = hub.KerasLayer(directory, trainable=True, dtype="float32")
        model = tf_keras.Sequential([tf_keras.Input((48, 48, 3)), layer, tf_keras.layers.Dense(3)])
        assert model(images()).dtype == "float16"
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")


def test_keras_3_layer_of_the_signature_sees_every_trainable_weight_and_trains_it(directory):
    import keras

    layer = keras.layers.TFSMLayer(directory, call_endpoint="serving_default")
    assert (len(layer.trainable_weights), len(layer.non_trainable_weights)) == (TRAINABLE, 14)
    inputs = keras.Input((48, 48, 3))
    model = keras.Model(inputs, layer(inputs)["logits"])
    assert tiny.relative_error(model(images()), tiny.expected(NAME)["logits"]) <= TOLERANCE
    before = values(layer.trainable_weights)
    fitted(keras, model)
    assert not any(map(np.array_equal, values(layer.trainable_weights), before))


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
    assert all(map(np.array_equal, values(model.variables), values(again.variables)))


# --- writing it whole, or not at all


def test_existing_folder_is_refused_and_left_alone(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(PackagingError, match=r"model exists already"):
        saved_model.save_model(small(), target)
    with pytest.raises(PackagingError, match=r"model could not be written"):
        saved_model.save_model(small(), target / "precious.txt" / "model")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "precious.txt"]


def test_full_disk_is_said_so_and_what_was_written_is_removed(tmp_path, monkeypatch):
    save = tf.saved_model.save

    def fail(*args, **kwargs):
        save(*args, **kwargs)
        raise tf.errors.ResourceExhaustedError(None, None, "variables.data; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(PackagingError, match="No space left on device"):
        saved_model.save_model(small(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"<html>not found</html>"])
def test_folder_that_is_no_saved_model_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(PackagingError, match=f"{tmp_path.name}.* is not a SavedModel"):
        saved_model.load_model(tmp_path)
