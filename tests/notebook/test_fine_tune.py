"""The fine-tuning notebook by papermill: it really learns, what it leaves can be used, and what must stop it."""

import functools
import json
import shutil
import subprocess
import sys

import extractors
import notebooks
import numpy as np
import pytest
from gate.exports import noise, prepare_export
from gate.steps import tensorflow_step
from labelled import folder_of
from notebooks import manifest_of, text_of

from utils.convert import ROOT
from utils.export import saved_model
from utils.files import hash_file
from utils.keras_models import saving

NAME = "convmixer_tiny_classification_digits"

run = functools.partial(notebooks.run, "fine-tune.ipynb")

DIGITS = {"dataset": "digits"}  # the rest is the notebook's
# The table has more for both families; another machine's rounding may move a run by a point.
ACCURACY, HEAD_ACCURACY = 0.94, 0.85


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, executed notebook): everything trained on the digits, at a rate that moves a tiny model far."""
    folder = tmp_path_factory.mktemp("whole")
    # By its moving statistics, which are made up, no epoch surpasses the head.
    options = {"train": "all", "learning_rate": 0.1, "epochs": 20, "batch_norm": "batch", **DIGITS}
    return folder, run(folder, model=str(extractors.published("convmixer").tarball), **options)


@pytest.mark.slow
def test_the_backbone_learns_the_digits_and_beats_the_head_alone_and_the_manifest_tells_it(whole, tmp_path):
    folder, _ = whole
    shown = text_of(run(tmp_path, model=str(extractors.published("convmixer").folder), epochs=7, **DIGITS))
    assert "train = auto: the head alone, on a CPU" in shown
    assert "Not used, since the head alone is fitted, by a solver: epochs = 7" in shown
    both, head = (manifest_of(place, NAME)["training"] for place in (folder, tmp_path))
    assert both["val_accuracy"] >= ACCURACY
    assert both["val_accuracy"] > head["val_accuracy"] >= HEAD_ACCURACY
    assert {len(values) for values in both["history"].values()} == {20}
    assert both["dataset"]["name"] == "digits"
    assert (both["train"], head["train"]) == ("all", "head")
    assert (both["results"]["kept"], "history" in head, "epochs" in head["settings"]) == ("all", False, False)
    assert both["extractor"] == "convmixer_tiny_fe"


@pytest.mark.slow
def test_it_runs_as_it_stands_without_a_network(tmp_path):
    with notebooks.offline(tmp_path):
        shown = text_of(run(tmp_path))
    assert "convmixer_tiny_fe_synthetic has random weights" in shown
    assert "dataset = auto: digits" in shown
    assert (tmp_path / "exports" / "convmixer_tiny_classification_digits_synthetic.tar.gz").is_file()


@pytest.mark.slow
def test_the_tarball_verifies_as_a_download_does(whole):
    folder, _ = whole
    command = [sys.executable, "-m", "utils.verify", str(folder / "exports" / f"{NAME}.tar.gz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This copy gives the right numbers here" in done.stdout


@pytest.mark.slow
def test_the_notebook_shows_its_pictures(whole):
    _, notebook = whole
    outputs = text_of(notebook)
    assert outputs.count("image/png") == 5  # examples, curves, confusion, mistakes, the last photograph
    assert "Traceback" not in outputs


@pytest.mark.slow
def test_the_tarball_is_a_classifier_with_the_user_s_labels_that_takes_photographs(whole):
    import tensorflow as tf

    from utils.training.datasets import load_dataset

    folder, _ = whole
    assert notebooks.labels_of(folder, NAME) == list("0123456789")
    model, digits = notebooks.load(folder, NAME), load_dataset("digits", 0).validation
    images = np.stack([digits.read(i) for i in range(len(digits))])
    answer = model.signatures["serving_image"](images=tf.constant(images))
    right = np.mean(answer["probabilities"].numpy().argmax(axis=1) == digits.labels)
    assert abs(right - manifest_of(folder, NAME)["training"]["val_accuracy"]) * len(digits) < 2
    encoded = tf.stack([tf.io.encode_png(image) for image in images[:3]])
    found = model.signatures["serving_image_bytes"](image_bytes=encoded)["logits"].numpy()
    expected = answer["logits"].numpy()[:3]
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())  # a trained head adds to rounding


@pytest.mark.slow
def test_own_photographs_in_a_zip_file_with_a_corrupt_one_train_the_keras_file_of_a_mixer(tmp_path):
    data = folder_of(tmp_path / "My flowers", {"oak leaf": 8, "rose": 8, "tulip": 8})
    (data / "rose" / "000.png").write_bytes(b"damaged")
    zipped = shutil.make_archive(str(data), "zip", tmp_path, data.name)
    options = {"train": "all", "epochs": 1, "optimizer": "adamw", "tflite": "float32"}
    model = str(extractors.published("mixer native").folder.with_suffix(".keras"))
    notebook = run(tmp_path, model=model, dataset=zipped, corrupt_images="skip", **options)
    assert "1 files cannot be decoded" in json.dumps(notebook)
    assert "A batch has 18 images instead of 32" in json.dumps(notebook)
    name = "mixer_tiny_classification_My_flowers"
    manifest = manifest_of(tmp_path, name, ".keras", "_float32.tflite", "_float32.tflite.json")
    assert manifest["training"]["dataset"]["skipped_files"] == 1
    assert manifest["training"]["settings"]["keras"] == "keras_3"
    assert manifest["minimum_tensorflow"] == "2.14"
    native = saving.load(tmp_path / "exports" / f"{name}.keras")
    assert manifest["keras"]["sha256"] == hash_file(tmp_path / "exports" / f"{name}.keras")
    pixels = noise(2, 48)
    np.testing.assert_allclose(native(pixels), notebooks.load(tmp_path, name)(pixels), atol=1e-5)


@pytest.mark.slow
def test_a_parameter_of_an_earlier_version_is_refused(tmp_path):
    notebooks.assert_stops("fine-tune.ipynb", tmp_path, "train_backbone is no parameter any more", train_backbone=True)


@pytest.mark.slow
def test_a_classifier_is_refused_before_any_data_are_read(tmp_path):
    model = str(extractors.published("classifier").folder)
    notebooks.assert_stops("fine-tune.ipynb", tmp_path, "is a classifier", model=model, dataset="tf_flowers")
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize("name", ["convmixer_1024_20", "mixer_b16_i1k"])
@pytest.mark.slow
def test_a_training_step_of_a_full_size_model_lowers_the_loss(tmp_path, name):
    prepare_export("xla", name)(tmp_path / "model")
    model = saved_model.load_model(tmp_path / "model")
    step = tensorflow_step(lambda images: model(images, training=True), model.trainable_variables, 3e-5, momentum=0.9)
    losses = [step(noise(2, 224), np.array([3, 7])) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert losses[2] < losses[1] < losses[0]


MIRRORED = """
import sys
sys.path.insert(0, "tests")
import pathlib
import tensorflow as tf

cpu, = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import extractors
from labelled import built, coloured_images, moved
from utils.machine import devices

devices.choose_strategy = lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for kind, keras in (("convmixer", "tf_keras"), ("convmixer native", "keras_3")):
    run = built(kind, coloured_images(), pathlib.Path(sys.argv[1]), epochs=2, keras=keras, batch_norm="batch")
    run.learning.train()
    assert run.learning.trainable.model.distribute_strategy.num_replicas_in_sync == 2
    state = run.learning.state
    assert state.history["loss"][1] < state.history["loss"][0], state.history
    assert len(moved(run)) == len(run.learning.trainable.arrays()) - 2
    print("mirrored", keras, state.epochs_done)
"""


@pytest.mark.slow
def test_two_mirrored_devices_train_together_and_their_state_is_saved(tmp_path):
    command = [sys.executable, "-c", MIRRORED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mirrored tf_keras 2" in done.stdout
    assert "mirrored keras_3 2" in done.stdout
