"""The fine-tuning notebook by papermill: it really learns, what it leaves can be used, and what must stop it."""

import functools
import io
import json
import os
import subprocess
import sys
import time

import extractors
import notebooks
import numpy as np
import papermill
import pytest
from labelled import folder_of
from PIL import Image

from benchmarks.exports import noise, prepare_export
from benchmarks.training import build_tensorflow
from utils.artefact.tarball import extract_tarball
from utils.convert import ROOT
from utils.models.variants import get_variant

NAME = "convmixer_tiny_classification_digits"

run = functools.partial(notebooks.run, "fine-tune.ipynb")


def manifest_of(folder, name):
    return json.loads((folder / "exports" / f"{name}.json").read_text(encoding="utf-8"))


DIGITS = {"dataset": "digits", "epochs": 10, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, executed notebook, seconds): the backbone trained on the digits."""
    folder, started = tmp_path_factory.mktemp("whole"), time.perf_counter()
    notebook = run(folder, model=str(extractors.published("convmixer").tarball), **DIGITS)
    return folder, notebook, time.perf_counter() - started


@pytest.mark.slow
def test_the_backbone_learns_the_digits_and_beats_the_head_alone(whole, tmp_path):
    folder, _, _ = whole
    run(tmp_path, model=str(extractors.published("convmixer").folder), train_backbone=False, **DIGITS)
    both = [max(manifest_of(place, NAME)["training"]["history"]["val_accuracy"]) for place in (folder, tmp_path)]
    assert both[0] >= 0.95
    assert both[0] - both[1] >= 0.05


@pytest.mark.slow
def test_three_things_are_left_and_the_manifest_tells_the_training(whole):
    folder, _, _ = whole
    assert sorted(os.listdir(folder / "exports")) == [NAME, f"{NAME}.json", f"{NAME}.tar.gz"]
    training = manifest_of(folder, NAME)["training"]
    assert {len(values) for values in training["history"].values()} == {10}
    assert training["dataset"]["name"] == "digits"
    assert training["settings"]["train_backbone"] is True
    assert training["extractor"] == "convmixer_tiny_fe"


@pytest.mark.slow
def test_the_tarball_verifies_as_a_download_does(whole):
    folder, _, _ = whole
    command = [sys.executable, "-m", "utils.verify", str(folder / "exports" / f"{NAME}.tar.gz")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "This copy gives the right numbers here" in done.stdout


@pytest.mark.slow
def test_the_notebook_shows_its_pictures_and_no_warnings(whole):
    _, notebook, _ = whole
    outputs = json.dumps([output for cell in notebook["cells"] for output in cell.get("outputs", [])])
    assert outputs.count("image/png") == 5  # examples, learning rate, curves, confusion, mistakes
    assert '"name": "stderr"' not in outputs
    assert "Traceback" not in outputs


@pytest.mark.slow
def test_the_tarball_is_a_classifier_with_the_user_s_labels_that_takes_photographs(whole, tmp_path):
    import tensorflow as tf
    from sklearn.datasets import load_digits

    folder, _, _ = whole
    model_dir = extract_tarball(folder / "exports" / f"{NAME}.tar.gz", tmp_path / "model")
    labels = (model_dir / "assets.extra" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[1] for line in labels] == list("0123456789")
    model = tf.saved_model.load(str(model_dir))
    digits = load_digits()
    pixels = np.rint(digits.images[:200] * (255 / 16)).astype(np.uint8)
    images = np.repeat(pixels[..., None], 3, axis=3)
    answer = model.signatures["serving_image"](images=tf.constant(images))
    assert np.mean(answer["probabilities"].numpy().argmax(axis=1) == digits.target[:200]) >= 0.95

    def png(image):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    encoded = tf.constant([png(image) for image in images[:3]])
    found = model.signatures["serving_image_bytes"](image_bytes=encoded)["logits"].numpy()
    np.testing.assert_allclose(found, answer["logits"].numpy()[:3], atol=1e-4)


def test_own_photographs_in_a_folder_with_a_corrupt_one_train_a_mixer_under_keras_3(tmp_path):
    data = folder_of(tmp_path / "My flowers", {"oak leaf": 8, "rose": 8, "tulip": 8})
    (data / "rose" / "000.png").write_bytes(b"damaged")
    options = {"epochs": 1, "batch_size": 8, "keras": "keras_3", "optimizer": "adamw", "label_smoothing": 0.1}
    model = str(extractors.published("xla").folder)
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run(tmp_path, model=model, dataset=str(data), **options)
    assert error.value.ename == "ParameterError"
    assert "rose/000.png" in error.value.evalue
    notebook = run(tmp_path, model=model, dataset=str(data), corrupt_images="skip", **options)
    assert "1 files cannot be decoded" in json.dumps(notebook)
    name = "mixer_tiny_classification_My_flowers"
    assert sorted(os.listdir(tmp_path / "exports")) == [name, f"{name}.json", f"{name}.tar.gz"]
    manifest = manifest_of(tmp_path, name)
    assert manifest["training"]["dataset"]["skipped_files"] == 1
    assert manifest["training"]["settings"]["keras"] == "keras_3"
    assert manifest["versions"]["minimum_tensorflow"] == "2.14"


@pytest.mark.slow
def test_a_classifier_is_refused_before_any_data_are_read(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        run(tmp_path, model=str(extractors.published("classifier").folder), dataset="tf_flowers")
    assert error.value.ename == "ParameterError"
    assert "is a classifier" in error.value.evalue
    assert not (tmp_path / "exports").exists()


@pytest.mark.parametrize(("name", "kind"), [("convmixer_1024_20", "onnx-tf"), ("mixer_b16_i1k", "xla")])
@pytest.mark.slow
def test_a_training_step_of_a_full_size_model_lowers_the_loss(tmp_path, name, kind):
    variant = get_variant(name)
    prepare_export(kind, name, "fe")(tmp_path / "fe")
    step = build_tensorflow(variant, "all", tmp_path / "fe")
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
from labelled import Run, coloured_images

extractors.published("convmixer")  # a strategy's scope is for what is trained, not for making the extractor
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    run = Run("convmixer", coloured_images(), pathlib.Path(sys.argv[1]), epochs=2)
run.train()
assert strategy.num_replicas_in_sync == 2
assert run.history["loss"][1] < run.history["loss"][0], run.history
assert len(run.moved()) == len(run.before)
print("mirrored", run.state.epochs_done)
"""


@pytest.mark.slow
def test_two_mirrored_devices_train_together_and_their_state_is_saved(tmp_path):
    command = [sys.executable, "-c", MIRRORED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "mirrored 2" in done.stdout
