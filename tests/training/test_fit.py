"""Training in both Kerases: what moves, what is resumed, what is kept, and what is saved of it."""

import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import proofs
import pytest
import tiny
from labelled import BATCH, EPOCHS, Run, coloured_images

from utils.artefact.opening import open_models
from utils.errors import PackagingError, ParityError
from utils.export import saved_model
from utils.families import FAMILIES
from utils.files import hash_file
from utils.images.labels import Label
from utils.keras_models import saving
from utils.keras_models.archive import read_record
from utils.parity.golden import make_golden
from utils.training import fine_tuned, fit as training, keras_worlds
from utils.verify.command import verify

WORLDS = ("tf_keras", "keras_3")
# Keras, and what the extractor lies there as
WAYS = (("tf_keras", "convmixer"), tiny.slow(("keras_3", "convmixer")), ("keras_3", "convmixer native"))


KINDS = ("convmixer", "plain", "xla", "convmixer native", "mixer native")


@pytest.fixture(scope="module")
def images():
    return coloured_images()


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: ", ".join(way))
def trained(request, images, tmp_path_factory):
    """A whole run on the ConvMixer, uninterrupted."""
    keras, kind = request.param
    return Run(kind, images, tmp_path_factory.mktemp("whole"), keras=keras).train()


def test_the_history_has_every_epoch_and_the_loss_falls(trained):
    assert sorted(trained.history) == ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert all(len(values) == EPOCHS for values in trained.history.values())
    assert trained.history["loss"][-1] < trained.history["loss"][0]
    assert np.isfinite(list(trained.history.values())).all()


def test_every_weight_moves_and_statistics_do_unless_the_layer_cannot(trained):
    statistics = {name for name in trained.before if name.endswith(("running_mean", "running_var"))}
    weights = set(trained.before) - statistics
    assert len(statistics) == 14
    assert trained.moved() == (weights if trained.trainable.layer == "TFSMLayer" else weights | statistics)


def test_the_best_epoch_is_what_is_left(trained):
    batches = training.validation_batches(trained.images, trained.extractor.preprocessing, BATCH)
    loss, accuracy = trained.trainable.model.evaluate(batches, verbose=0)
    best = trained.state.best_epoch
    assert accuracy == pytest.approx(max(trained.history["val_accuracy"]))
    assert (loss, accuracy) == pytest.approx(
        (trained.history["val_loss"][best], trained.history["val_accuracy"][best]), rel=1e-5
    )


def test_a_stopped_run_goes_on_with_the_losses_of_an_uninterrupted_one(trained, images, tmp_path, monkeypatch):
    way = {"kind": trained.kind, "keras": trained.settings.keras}
    stopped = Run(images=images, output_dir=tmp_path, **way)
    update = Mock(side_effect=[*[None] * 9, KeyboardInterrupt])  # in the middle of the third epoch
    with monkeypatch.context() as patch:
        patch.setattr(training.tqdm, "update", update)
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
    resumed = Run(images=images, output_dir=tmp_path, **way).train()
    assert resumed.resumed == 2
    for name, values in trained.history.items():
        np.testing.assert_allclose(resumed.history[name], values, rtol=1e-5, err_msg=name)
    found = resumed.trainable.values()[0]
    for name, value in trained.trainable.values()[0].items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_finished_run_is_not_trained_again_and_other_settings_start_anew(trained, images):
    folder = trained.state.folder.parent
    again = Run(trained.kind, images, folder, keras=trained.settings.keras)
    again.trainable.model.fit = None  # would be called
    assert again.train().history == trained.history
    other = Run(trained.kind, images, folder, keras=trained.settings.keras, learning_rate=0.01)
    state = training.open_state(other.trainable, other.settings, "name", images, other.extractor.files)
    assert state.epochs_done == 0


def test_a_state_that_is_damaged_is_refused_by_name(images, tmp_path):
    run = Run("plain", images, tmp_path, epochs=1).train()
    (index,) = (run.state.folder / "latest").glob("*.index")
    index.write_bytes(b"damaged")
    with pytest.raises(PackagingError, match=r"\.name\.training-.*Remove it"):
        training.open_state(run.trainable, run.settings, "name", images, run.extractor.files)
    run.state.remove()
    assert not run.state.folder.exists()


@pytest.mark.parametrize("way", WAYS, ids=", ".join)
def test_the_head_alone_leaves_the_backbone_as_it_was(images, tmp_path, way):
    world, kind = way
    run = Run(kind, images, tmp_path, keras=world, train_backbone=False, epochs=1).train()
    assert run.moved() == set()
    assert len(run.trainable.model.trainable_variables) == 2
    assert np.abs(run.trainable.values()[1]).max() > 0


@pytest.mark.parametrize(
    ("world", "kind"),
    [
        ("tf_keras", "xla"),
        *(tiny.slow(*way) for way in (("keras_3", "plain"), ("tf_keras", "plain"), ("keras_3", "xla"))),
    ],
)
def test_a_mixer_is_trained_in_both_worlds_with_any_optimizer(images, tmp_path, world, kind):
    options = {"optimizer": "adamw", "label_smoothing": 0.1, "clip_norm": 0.0} if kind == "plain" else {}
    run = Run(kind, images, tmp_path, keras=world, epochs=2, learning_rate=0.003, **options).train()
    still = set(run.before) - run.moved()
    assert all(name.endswith("token_mixing/Dense_1/bias") for name in still)  # their gradient is rounding only
    assert run.history["loss"][1] < run.history["loss"][0]


@pytest.fixture(scope="module", params=[KINDS[0], *map(tiny.slow, KINDS[1:])])
def classifier(request, images, tmp_path_factory):
    """(run, folder): a short run and the classifier that is saved of it."""
    folder = tmp_path_factory.mktemp("classifier")
    keras = "keras_3" if request.param.endswith("native") else "tf_keras"
    run = Run(request.param, images, folder, epochs=1, keras=keras).train()
    exported = fine_tuned.classifier(run.extractor.folder, run.extractor.variant.family, *run.trainable.values())
    return run, saved_model.save_model(exported, folder / "saved")


def test_the_saved_classifier_computes_what_the_trained_model_does_and_can_be_trained_again(classifier):
    run, folder = classifier
    model = saved_model.load_model(folder)
    inputs = np.random.default_rng(2).standard_normal((5, 48, 48, 3), dtype=np.float32)
    expected = np.asarray(run.trainable.model(inputs, training=False))
    np.testing.assert_allclose(model(inputs).numpy(), expected, atol=1e-5)
    assert model.signatures["serving_default"].structured_outputs["logits"].shape.as_list() == [None, 3]
    found = saved_model.Candidate(model).gradients(inputs, training=True)
    assert all(gradient is not None and np.isfinite(gradient).all() for gradient in found.values())
    trained_arrays = {saved_model.name_of(v) for v in saved_model.load_model(run.extractor.folder).trainable_variables}
    assert set(found) == trained_arrays | set(FAMILIES[run.extractor.variant.family].head_keys)
    size, of_extractor = (
        (place / "variables" / "variables.data-00000-of-00001").stat().st_size
        for place in (folder, run.extractor.folder)
    )
    assert size < of_extractor + 4 * 33 * 3 + 4096  # no weight is stored twice


def test_weights_of_another_model_are_refused(classifier):
    run, _ = classifier
    values, kernel, bias = run.trainable.values()
    values.popitem()
    with pytest.raises(PackagingError, match="missing"):
        fine_tuned.classifier(run.extractor.folder, run.extractor.variant.family, values, kernel, bias)


def test_gradients_are_clipped_all_together_at_the_norm_that_was_asked_for(trained):
    optimizer = trained.trainable.optimizer
    assert optimizer.global_clipnorm == trained.settings.clip_norm > 0
    assert optimizer.clipnorm is None


def test_the_schedule_warms_up_for_a_tenth_and_ends_at_zero():
    for world in WORLDS:
        schedule = keras_worlds.learning_rate_schedule(keras_worlds.keras_module(world), 0.5, 100)
        rates = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
        assert rates == pytest.approx([0, 0.25, 0.5, 0.25, 0], abs=1e-6), world


@pytest.mark.parametrize("world", [tiny.slow("tf_keras"), "keras_3"])
def test_a_scaled_loss_trains_too(images, tmp_path, world):
    """As with float16 on a GPU: here in float32, which the rewrite does not change on a CPU."""
    run = Run("plain", images, tmp_path, float16=True, keras=world, epochs=1).train()
    assert all(np.isfinite(value).all() for value in run.trainable.values()[0].values())
    assert run.moved()


def test_a_keras_file_with_other_weights_is_not_trained(images, tmp_path):
    """The name and the checkpoint that it tells are right."""
    run = Run("convmixer native", images, tmp_path, keras="keras_3", epochs=1)
    path, record = tmp_path / "other.keras", read_record(run.extractor.keras_file)
    arrays = proofs.weights("convmixer_tiny") | {}
    arrays["stem.0.bias"] = np.nextafter(arrays["stem.0.bias"], np.float32(1))
    saving.write(path, run.extractor.variant, arrays, "fe", 48, record)
    with pytest.raises(PackagingError, match=r"other\.keras has other weights than .*, in stem\.0\.bias"):
        keras_worlds.build(run.settings, replace(run.extractor, keras_file=path), 3, 1)


@pytest.mark.filterwarnings("error:The structure of `inputs`")  # Keras's, where a model wants a list of one
@pytest.mark.parametrize("classifier", [tiny.slow("mixer native"), tiny.slow("convmixer native")], indirect=True)
def test_what_was_trained_from_a_keras_file_is_left_as_one_and_proved(classifier, tmp_path):
    run, folder = classifier
    (values, kernel, bias), model = run.trainable.values(), run.trainable.model
    family = run.extractor.variant.family
    expected = values | dict(zip(FAMILIES[family].head_keys, (kernel, bias), strict=True))
    labels = [Label(f"class_{i}", name) for i, name in enumerate(run.images.classes)]

    def trained(inputs):
        return model(inputs, training=False).numpy()

    name = f"{run.extractor.variant.name}_classification_colours"
    path = tmp_path / f"{name}.keras"
    golden = make_golden(trained, 48, 48, 0)
    fine_tuned.write_keras(path, run.trainable, run.extractor, name, "colours", labels, golden)
    inputs = np.random.default_rng(2).standard_normal((5, 48, 48, 3), dtype=np.float32)
    facts = fine_tuned.proved_keras(path, family, expected, trained, inputs)
    assert facts["sha256"] == hash_file(path)
    assert facts["parity"]["tensorflow"]["passed"]
    assert [check.name for check in verify(path) if check.passed is False] == []
    opened = open_models([str(path)])[path.name]
    assert opened.names == run.images.classes
    assert opened.units == 3
    assert opened.manifest["parameters"] == sum(math.prod(variable.shape) for variable in model.trainable_variables)
    assert opened.manifest["training"] == {"dataset": "colours", "extractor": run.extractor.name}
    loaded = saving.load(path)
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    np.testing.assert_allclose(loaded(inputs), saved_model.load_model(folder)(inputs), atol=1e-5)
    with pytest.raises(ParityError, match="validation images"):
        fine_tuned.proved_keras(path, family, expected, lambda images: 1.001 * trained(images), inputs)
    wrong = {FAMILIES[family].head_keys[1]: bias + 1}
    with pytest.raises(ParityError, match="variables"):
        fine_tuned.proved_keras(path, family, expected | wrong, trained, inputs)
