"""What "auto" becomes, by device, weights, family and number of images; and what is said of settings."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from labelled import coloured_images

from utils.training import plan, scores
from utils.training.datasets import Split
from utils.training.settings import TrainingSettings


def images_of(*counts):
    """So many training images of each class."""
    split = Split(lambda i: None, np.repeat(np.arange(len(counts)), counts))
    return replace(coloured_images(), classes=tuple(f"c{i}" for i in range(len(counts))), train=split)


def decided(device="CPU", weights="official", family="mixer", images=None, **changed):
    extractor = SimpleNamespace(weights=weights, variant=SimpleNamespace(family=family))
    return plan.decided(TrainingSettings(**changed).checked(), extractor, images or images_of(50, 50), device)


@pytest.mark.parametrize(("device", "train"), [("CPU", "head"), ("GPU", "all"), ("TPU", "all")])
def test_auto_is_the_head_on_a_cpu_and_everything_on_an_accelerator(device, train):
    found = decided(device)
    assert found.settings.train == train
    assert f"on a {device}" in found.remarks[0]
    assert (decided(device, train="head").settings.train, decided(device, train="all").settings.train) == (
        "head",
        "all",
    )


def test_pretrained_weights_are_trained_gently_by_the_root_of_the_batch_and_random_ones_as_before():
    rate = lambda **changed: decided("GPU", **changed).settings.learning_rate  # noqa: E731
    many = images_of(600, 600)
    assert rate() == 0.0075  # the Mixer authors' 0.03 is for 512 images, 16 times as many
    assert rate(images=many, batch_size=512) == 0.03
    assert rate(weights="custom", optimizer="adamw") == pytest.approx(1e-4 / 2)
    assert (rate(weights="synthetic"), rate(weights="synthetic", optimizer="adamw")) == (0.1, 0.001)
    assert rate(learning_rate=0.5) == 0.5


@pytest.mark.parametrize(("counts", "epochs"), [((50, 50), 20), ((1600, 1600), 5), ((20_000, 20_000), 3)])
def test_epochs_are_about_500_steps_and_3_to_20(counts, epochs):
    assert decided("GPU", images=images_of(*counts)).settings.epochs == epochs
    assert decided("GPU", images=images_of(*counts), epochs=2).settings.epochs == 2
    assert decided("GPU", images=images_of(*counts), weights="synthetic").settings.epochs == 20


def test_what_is_given_and_not_used_is_said():
    found = decided("CPU", epochs=3, learning_rate=0.1, batch_norm="batch")
    assert (
        "Not used, since the head alone is fitted, by a solver: epochs = 3, learning_rate = 0.1, batch_norm = batch."
        in (found.remarks)
    )
    assert set(found.unused) >= {"epochs", "learning_rate", "batch_norm", "optimizer"}
    assert not any("Not used" in remark for remark in decided("CPU").remarks + decided("GPU", epochs=3).remarks)
    assert decided("GPU").unused == ()


def test_random_weights_say_what_a_head_alone_makes_of_them():
    assert any("random numbers" in remark for remark in decided(weights="synthetic").remarks)
    assert not any("random" in remark for remark in decided().remarks + decided("GPU", weights="synthetic").remarks)


def test_the_batch_shrinks_to_the_images_there_are_and_says_so():
    found = decided(images=images_of(5, 6))
    assert found.settings.batch_size == 11
    assert "A batch has 11 images instead of 32: there are no more to train on." in found.remarks


def test_uneven_classes_are_said_unless_weights_were_asked_for_and_weights_even_them_out():
    uneven = images_of(30, 10)
    assert any("30 images of c0" in remark and "'balanced'" in remark for remark in decided(images=uneven).remarks)
    assert not any("uneven" in r for r in decided(images=uneven, class_weight="balanced").remarks + decided().remarks)
    weights = plan.class_weights(TrainingSettings(class_weight="balanced"), uneven)
    np.testing.assert_allclose(weights * [30, 10], 20)
    np.testing.assert_array_equal(plan.class_weights(TrainingSettings(), uneven), 1)


def test_accuracy_says_of_how_many_images_and_whether_they_are_few():
    assert scores.in_words(7, 8) == "87.50% (7 of 8 images: too few to tell)"
    assert scores.in_words(900, 1000) == "90.00% (900 of 1,000 images)"


def test_scores_are_those_of_keras_and_scikit_learn():
    import keras
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (40, 4)), np.repeat(np.arange(4), [25, 10, 4, 1])
    found = scores.of_logits(logits, labels, 0.1)
    assert found.balanced == pytest.approx(balanced_accuracy_score(labels, logits.argmax(axis=1)))
    assert found.accuracy == (logits.argmax(axis=1) == labels).mean() == found.right / 40
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    assert found.loss == pytest.approx(float(loss(np.eye(4)[labels], logits)), rel=1e-5)
