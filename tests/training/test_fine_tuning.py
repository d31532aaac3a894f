"""Fine-tuning in both Kerases: what moves, what is resumed, what is kept, and what is published of it."""

import shutil
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import manifests
import numpy as np
import proofs
import pytest
import tiny
from labelled import BATCH, EPOCHS, built, coloured_images, moved

from utils.artefact.opening import open_model, open_models
from utils.errors import PackagingError, ParityError
from utils.export import saved_model
from utils.families import FAMILIES
from utils.keras_models import saving
from utils.keras_models.archive import read_record
from utils.machine import devices
from utils.notebook.display import softmax
from utils.training import model, state
from utils.training.batches import validation_batches
from utils.training.fine_tuning import fine_tuned_name
from utils.verify.command import verify

# Of a ConvMixer: Keras, the kind of extractor, and what BatchNorm is asked to normalise by.
WAYS = [
    ("tf_keras", "convmixer", "moving"),
    tiny.slow(("tf_keras", "convmixer", "batch")),
    *(tiny.slow(("keras_3", "convmixer native", batch_norm)) for batch_norm in ("moving", "batch")),
    tiny.slow(("keras_3", "convmixer", "batch")),  # TFSMLayer, which cannot
]

# What the state on the disk is, hangs on Keras alone.
in_either_keras = pytest.mark.parametrize("trained", [WAYS[0], WAYS[3]], indirect=True, ids=", ".join)


@pytest.fixture(scope="module")
def images():
    return coloured_images()


@pytest.fixture(scope="module", params=WAYS, ids=", ".join)
def trained(request, images, tmp_path_factory):
    """A whole run on the ConvMixer, uninterrupted."""
    keras, kind, batch_norm = request.param
    again = {"kind": kind, "images": images, "keras": keras, "batch_norm": batch_norm}
    run = built(output_dir=tmp_path_factory.mktemp("whole"), **again)
    run.learning.train()
    return SimpleNamespace(run=run, again=again, by_batch=batch_norm == "batch" and run.learning.trainable.batch_norm)


def test_every_weight_moves_and_statistics_do_only_by_batch(trained):
    run, after = trained.run, trained.run.learning.trainable.arrays()
    assert run.learning.state.history["loss"][-1] < run.learning.state.history["loss"][0]
    assert all(len(values) == EPOCHS and np.isfinite(values).all() for values in run.learning.state.history.values())
    statistics = {name for name in after if name.endswith(("running_mean", "running_var"))}
    weights = set(after) - statistics - set(FAMILIES["convmixer"].head_keys)
    assert statistics
    assert moved(run) == (weights | statistics if trained.by_batch else weights)
    assert trained.by_batch == (trained.again["batch_norm"] == "batch" and run.learning.trainable.layer != "TFSMLayer")


def test_the_best_epoch_is_what_is_left(trained):
    run, history = trained.run, trained.run.learning.state.history
    batches = validation_batches(run.images, run.extractor.preprocessing, BATCH)
    loss, accuracy = run.learning.trainable.model.evaluate(batches, verbose=0)
    assert accuracy == pytest.approx(max(history["val_accuracy"]))
    assert loss == pytest.approx(history["val_loss"][run.learning.state.best_epoch], rel=1e-5)


@in_either_keras
@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_losses_of_an_uninterrupted_one(trained, tmp_path, monkeypatch):
    stopped = built(output_dir=tmp_path, **trained.again)
    update = Mock(side_effect=[*[None] * 9, KeyboardInterrupt])  # in the middle of the third epoch
    with monkeypatch.context() as patch:
        patch.setattr(state.tqdm, "update", update)
        with pytest.raises(KeyboardInterrupt):
            stopped.learning.train()
    resumed = built(output_dir=tmp_path, **trained.again)
    assert resumed.learning.state.epochs_done == 2
    resumed.learning.train()
    for name, values in trained.run.learning.state.history.items():
        np.testing.assert_allclose(resumed.learning.state.history[name], values, rtol=1e-5, err_msg=name)
    found = resumed.learning.trainable.arrays()
    for name, value in trained.run.learning.trainable.arrays().items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@in_either_keras
def test_a_finished_run_is_not_trained_again_other_settings_start_anew_and_a_damaged_state_is_named(trained, tmp_path):
    earlier = trained.run.learning.state
    again = built(output_dir=earlier.folder.parent, **trained.again)
    again.learning.trainable.model.fit = None  # would be called
    again.learning.train()
    assert again.learning.state.history == earlier.history
    other = built(output_dir=earlier.folder.parent, learning_rate=0.01, **trained.again)
    assert other.learning.state.epochs_done == 0

    damaged = shutil.copytree(earlier.folder, tmp_path / "state")
    (index,) = (damaged / "latest").glob("*.index")
    index.write_bytes(b"damaged")
    with pytest.raises(PackagingError, match="Remove it"):
        state.TrainingState(damaged, trained.run.learning.trainable.model)


@pytest.mark.parametrize("way", WAYS[::2], ids=", ".join)
def test_the_head_alone_leaves_the_backbone_as_it_was(images, tmp_path, way):
    keras, kind, _ = way
    run = built(kind, images, tmp_path, keras=keras, train="head")
    run.learning.train()
    assert moved(run) == set()
    kernel, bias = FAMILIES["convmixer"].head_keys
    np.testing.assert_array_equal(run.learning.trainable.arrays()[kernel], run.learning.head.kernel)
    np.testing.assert_array_equal(run.learning.trainable.arrays()[bias], run.learning.head.bias)
    found = run.learning.trainable.model.predict(run.learning.validation(), verbose=0)
    np.testing.assert_allclose(run.learning.predict(), softmax(found), atol=1e-5)


def test_the_head_is_kept_if_no_epoch_surpasses_it_and_the_manifest_says_so(images, tmp_path):
    run = built("convmixer", images, tmp_path, from_head=True, epochs=1, learning_rate=1.0)
    before, learning = run.learning.trainable.arrays(), run.learning
    start = learning.trainable.model.evaluate(learning.validation(), verbose=0)
    assert start[0] < learning.head_scores.loss  # as sure as the smoothed labels are
    assert start[1] == learning.head_scores.accuracy == 1
    assert "surpassed" in learning.train()["kept"]
    assert learning.state.history["val_accuracy"][0] < 1
    keys = FAMILIES["convmixer"].head_keys
    expected = before | dict(zip(keys, (learning.head.kernel, learning.head.bias), strict=True))
    assert all(np.array_equal(expected[name], array) for name, array in learning.trainable.arrays().items())
    run.save()
    run.compare()
    training = open_model(str(run.publish().folder)).manifest["training"]
    assert (training["train"], training["results"]["kept"], training["best_epoch"]) == ("all", "head", 0)
    assert training["val_accuracy"] == training["results"]["head_val_accuracy"] == 1
    assert (training["dataset"]["training_images"], training["dataset"]["classes"]) == (16, 3)


# The .keras file of a Mixer: notebook/test_fine_tune.py.
KINDS = [("tf_keras", "convmixer"), ("tf_keras", "plain"), ("keras_3", "xla"), ("keras_3", "convmixer native")]


# Keras's, where a model wants a list of one.
@pytest.mark.filterwarnings("error:The structure of `inputs`")
@pytest.mark.parametrize(("keras", "kind"), KINDS)
@pytest.mark.slow
def test_what_is_published_is_the_trained_model_and_can_be_trained_again(images, tmp_path, keras, kind):
    options = {"optimizer": "adamw", "label_smoothing": 0.1, "clip_norm": 0.0} if kind == "plain" else {}
    run = built(kind, images, tmp_path, keras=keras, epochs=2, learning_rate=0.003, **options)
    run.learning.train()
    assert run.learning.state.history["loss"][1] < run.learning.state.history["loss"][0]
    run.save()
    assert run.compare().passed
    published = run.publish()
    assert not run.learning.state.folder.exists()

    opened = open_model(str(published.tarball))
    assert opened.names == images.classes
    assert opened.manifest["training"]["settings"]["keras"] == keras
    exported = saved_model.load_model(opened.folder)
    inputs = np.random.default_rng(2).standard_normal((5, 48, 48, 3), dtype=np.float32)
    expected = np.asarray(run.learning.trainable.model(inputs, training=False))
    np.testing.assert_allclose(exported(inputs).numpy(), expected, atol=1e-5)
    gradients = saved_model.Candidate(exported).gradients(inputs, training=True)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in gradients.values())
    trainable = saved_model.load_model(run.extractor.folder).trainable_variables
    head_keys = FAMILIES[run.extractor.variant.family].head_keys
    assert set(gradients) == {saved_model.name_of(v) for v in trainable} | set(head_keys)
    size, of_extractor = (
        (folder / "variables" / "variables.data-00000-of-00001").stat().st_size
        for folder in (published.folder, run.extractor.folder)
    )
    assert size < of_extractor + 4 * 33 * 3 + 4096  # no weight is stored twice
    if not kind.endswith("native"):
        return

    path = tmp_path / f"{run.name}.keras"
    assert [check.name for check in verify(path) if check.passed is False] == []
    native = open_models([str(path)])[path.name]
    assert native.names == images.classes
    assert native.manifest["parameters"] == opened.manifest["parameters"]
    assert native.manifest["training"] == {"dataset": images.name, "extractor": run.extractor.name}
    loaded = saving.load(path)
    assert len(loaded.trainable_variables) == len(gradients)
    np.testing.assert_allclose(loaded(inputs), expected, atol=1e-5)


@pytest.mark.parametrize(("keras", "kind"), [tiny.slow(*way) for way in KINDS[1:]] + [KINDS[0]])
def test_adamw_decays_kernels_and_neither_biases_nor_normalisations(images, tmp_path, keras, kind):
    run = built(kind, images, tmp_path, keras=keras, optimizer="adamw", learning_rate=1.0)
    trainable, optimizer = run.learning.trainable.model.trainable_variables, run.learning.trainable.model.optimizer
    before = [np.asarray(variable) for variable in trainable]
    for _ in range(3):  # the learning rate begins at zero
        optimizer.apply_gradients((variable * 0, variable) for variable in trainable)
    for array, variable in zip(before, trainable, strict=True):
        assert (array != np.asarray(variable)).any() == (array.ndim > 1 and array.any()), variable.name


@pytest.mark.slow
def test_another_image_size_is_the_published_classifier_s_too(images, tmp_path):
    same = {"image_size": 64, "train": "head"}
    run = built("convmixer any size", images, tmp_path, **same)
    run.learning.train()
    run.save()
    assert run.compare().passed
    preprocessing = open_model(str(run.publish().folder)).preprocessing
    assert (preprocessing.resize, preprocessing.crop) == (67, 64)
    built("convmixer any size", images, tmp_path, **same)
    built("convmixer any size", images, tmp_path, **same, learning_rate=0.01)  # which the head does not use
    with pytest.raises(PackagingError, match=r"training\.train is 'head' there, and 'all' here"):
        built("convmixer any size", images, tmp_path, **same | {"train": "all"})
    built("convmixer any size", images, tmp_path, **same | {"class_weight": "balanced", "name": "mine"})
    with pytest.raises(PackagingError, match=r"training\.dataset\.sha256 is"):
        built("convmixer any size", replace(images, fingerprint="of other pictures"), tmp_path, **same)


def test_a_classifier_of_ones_own_name_takes_no_other_one_s_place_and_says_what_is_assumed(images, tmp_path):
    assert built("convmixer", images, tmp_path / "new", name="mine").name == "mine_classification"
    manifests.publish(tmp_path, name="mine_classification")
    with pytest.raises(PackagingError, match=r"there is tiny\.pth\.tar of SHA-256 abab.*name = .*overwrite = True"):
        built("convmixer", images, tmp_path, name="mine")
    run = built("convmixer", images, tmp_path, name="mine", overwrite=True)
    assert all("convmixer_tiny_fe: ASSUMED" in note for note in run.notes)
    assert len(run.notes) == 2


def test_a_classifier_that_is_not_the_trained_model_is_not_published(images, tmp_path):
    run = built("convmixer native", images, tmp_path, keras="keras_3")
    run.save()
    head = run.learning.trainable.model.get_layer("head")
    head.set_weights([array + 1e-3 for array in head.get_weights()])
    assert not run.compare().passed
    assert not run.keras_reports["tensorflow"].passed
    with pytest.raises(ParityError, match="variables"):
        run.publish()
    assert [path for path in tmp_path.iterdir() if path.name[0] != "."] == []


def test_gradients_are_clipped_all_together_and_the_rate_warms_up_for_a_tenth_and_ends_at_zero(trained):
    run = trained.run
    assert run.learning.trainable.model.optimizer.global_clipnorm == run.settings.clip_norm > 0
    schedule = model.learning_rate_schedule(run.learning.trainable.keras, 0.5, 100)
    assert [float(schedule(step)) for step in (0, 5, 10, 55, 100)] == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("keras", ["tf_keras", "keras_3"])
def test_a_scaled_loss_trains_too(images, tmp_path, monkeypatch, keras):
    """As with float16 on a GPU: here in float32, which the rewrite does not change on a CPU."""
    monkeypatch.setattr(devices, "gains_from_float16", lambda: True)
    run = built("plain", images, tmp_path, keras=keras, epochs=1)
    run.learning.train()
    devices.set_mixed_precision(False)
    assert all(np.isfinite(value).all() for value in run.learning.trainable.arrays().values())
    assert moved(run)


@pytest.mark.slow
def test_a_keras_file_with_other_weights_is_not_trained(images, tmp_path):
    """The name and the checkpoint that its record states are right."""
    run = built("convmixer native", images, tmp_path, keras="keras_3")
    path, record = tmp_path / "other.keras", read_record(run.extractor.keras_file)
    arrays = proofs.weights("convmixer_tiny") | {}
    arrays["stem.0.bias"] = np.nextafter(arrays["stem.0.bias"], np.float32(1))
    saving.write(path, run.extractor.variant, arrays, "fe", 48, record)
    with pytest.raises(PackagingError, match=r"other\.keras has other weights than"):
        model.build(run.settings, replace(run.extractor, keras_file=path), 3)


NAMES = {
    ("convmixer_768_32_fe", "tf_flowers"): "convmixer_768_32_classification_tf_flowers",
    ("mixer_b16_i1k_fe_plain_synthetic", "digits"): "mixer_b16_i1k_classification_plain_digits_synthetic",
    # A folder may be called as it likes; only the weights are synthetic, or not.
    ("convmixer_768_32_fe", "my synthetic"): "convmixer_768_32_classification_my_synthetic_images",
    ("convmixer_768_32_fe", "synthetic_int8"): "convmixer_768_32_classification_synthetic_int8_images",
    ("convmixer_768_32_fe_synthetic", "synthetic"): "convmixer_768_32_classification_synthetic_images_synthetic",
    ("convmixer_768_32_fe", "Blumen (größere)/"): "convmixer_768_32_classification_Blumen_gr_ere",
    ("convmixer_768_32_fe", "花"): "convmixer_768_32_classification_images",
    ("my_felix_fe", "digits"): "my_felix_classification_digits",
    ("x" * 64 + "_fe_plain_synthetic", "y" * 50): f"{'x' * 64}_classification_plain_{'y' * 25}_synthetic",
    ("convmixer_768_32_fe", "x" * 33 + " synthetic"): f"convmixer_768_32_classification_{'x' * 33}_synthe",
}


@pytest.mark.parametrize(("extractor", "dataset"), NAMES)
def test_the_name_is_one_that_a_manifest_may_have(extractor, dataset):
    name = fine_tuned_name(extractor, dataset)
    assert name == NAMES[extractor, dataset]
    weights = "synthetic" if extractor.endswith("synthetic") else "custom"
    assert manifests.manifest(name=name, weights=weights)["name"] == name
