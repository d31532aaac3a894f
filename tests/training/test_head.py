"""The head is the logistic regression that its penalty asks for, in the features' own units, chosen by honest folds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from utils.training import head


def task(classes=3, images=60, units=8, copies=1, seed=0):
    """Features of very different scales around a centre per class, one of them constant; labels in any order."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % classes)
    centres = rng.normal(0, 1, (classes, units))
    features = centres[labels] + rng.normal(0, 1.5, (copies, images, units))
    features = features * 10.0 ** np.arange(-3, units - 3) + 5
    features[..., 2] = 7
    return features.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_its_logits_are_scikit_learn_s_in_float64_on_standardised_features(classes):
    features, labels = task(classes)
    found = head.fit_head(features, labels, np.ones(classes), 0)
    rows = features[0].astype(np.float64)
    deviation = rows.std(axis=0)
    rows = (rows - rows.mean(axis=0))[:, deviation > 0] / deviation[deviation > 0]
    expected = LogisticRegression(C=1 / (found.penalty * len(rows)), tol=1e-8, max_iter=10_000).fit(rows, labels)
    logits = found(features[0])
    if classes == 2:
        difference = logits[:, 1] - logits[:, 0]
        np.testing.assert_allclose(difference, expected.decision_function(rows), atol=0.02)
    else:
        centred = logits - logits.mean(axis=1, keepdims=True)  # a constant added to all classes changes nothing
        np.testing.assert_allclose(centred, expected.decision_function(rows), atol=0.02)
    assert found.converged
    assert np.all(found.kernel[2] == 0)  # of the constant feature


def test_the_penalty_is_weak_for_clear_features_and_strong_for_noise():
    features, labels = task(units=6)
    clear = features.copy()
    clear[..., :2] += 40 * np.eye(3)[labels][:, :2] * 10.0 ** np.arange(-3, -1)
    noise = np.random.default_rng(1).permutation(features[0])[np.newaxis]
    penalties = [head.fit_head(each, labels, np.ones(3), 0).penalty for each in (clear, noise)]
    assert penalties[0] < 0.01 < 0.1 <= penalties[1]


def test_no_copy_of_an_image_is_in_training_when_the_image_is_held_out():
    """Random labels on distinct images: whoever saw the other copy would know the label."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(60) % 2)
    one = rng.normal(size=(60, 80)).astype(np.float32)
    score = head.cross_validate(np.stack([one, one + 1e-3]), labels, np.ones(2), 0, (1e-4,))[1e-4]
    assert score.images == 60
    assert score.right < 45
    assert (head.fit_head(np.stack([one, one]), labels, np.ones(2), 0)(one).argmax(axis=1) == labels).mean() > 0.6


@pytest.mark.parametrize(("counts", "held_out"), [((1, 1), 0), ((1, 5), 5), ((2, 2), 4), ((7, 9, 1), 16)])
def test_classes_of_one_or_two_images_are_fitted(counts, held_out):
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(0).normal(size=(1, len(labels), 4)).astype(np.float32)
    features[0, :, 0] += 5 * labels
    scores = head.cross_validate(features, labels, np.ones(len(counts)), 0, (0.01,))
    assert (scores[0.01].images if scores else 0) == held_out
    found = head.fit_head(features, labels, np.ones(len(counts)), 0)
    assert found.kernel.shape == (4, len(counts))
    assert held_out or found.penalty == head.UNCHOSEN
    assert (found(features[0]).argmax(axis=1) == labels).mean() > 0.5


def test_a_rare_class_counts_for_more_if_it_is_to():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [90, 10])
    features = (labels[:, None] + rng.normal(0, 1, (100, 2))).astype(np.float32)[np.newaxis]
    plain, balanced = (head.fit_head(features, labels, np.array(each), 0) for each in ([1, 1], [100 / 180, 5]))
    recall = [(found(features[0]).argmax(axis=1) == 1)[90:].mean() for found in (plain, balanced)]
    assert recall[0] < 0.5 < recall[1]


def test_equal_input_gives_the_same_bytes():
    features, labels = task(copies=2)
    one, two = (head.fit_head(features, labels, np.ones(3), 4) for _ in range(2))
    assert one.kernel.tobytes() == two.kernel.tobytes()


def test_many_classes_and_images_are_fitted_in_a_bounded_number_of_steps(monkeypatch):
    monkeypatch.setattr(head, "_FLOPS", 1e6)
    features, labels = task(classes=20, images=200, units=16)
    found = head.fit_head(features, labels, np.ones(20), 0)
    assert not found.converged
    assert np.isfinite(found.kernel).all()


def test_a_scaled_head_chooses_the_same_classes_less_surely():
    features, labels = task()
    found = head.fit_head(features, labels, np.ones(3), 0)
    logits, scaled = found(features[0]), found.scaled(0.25)(features[0])
    np.testing.assert_allclose(scaled, logits / 4, rtol=1e-4, atol=1e-4)
    assert (found.scaled(1)(features[0]) == logits).all()
