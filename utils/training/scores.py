"""How good a classifier is on the validation images, and whether they are enough to tell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MANY = 200  # images, from which validation tells enough; below it the head is cross-validated, too
_FEW = 50  # of which one is two points of accuracy or more


class Scores(NamedTuple):
    """right: how many images. balanced: the mean over classes of the share that is right. loss: the mean."""

    right: int
    accuracy: float
    balanced: float
    loss: float


def of_logits(logits: np.ndarray, labels: np.ndarray, label_smoothing: float) -> Scores:
    """The scores of logits, [images, classes], whose true classes are `labels`, [images]; the loss is Keras's."""
    logits = logits.astype(np.float64)
    right = logits.argmax(axis=1) == labels
    shares = [right[labels == label].mean() for label in np.unique(labels)]
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    of_truth = logs[np.arange(len(labels)), labels]
    loss = -(1 - label_smoothing) * of_truth - label_smoothing * logs.mean(axis=1)
    return Scores(int(right.sum()), float(right.mean()), float(np.mean(shares)), float(loss.mean()))


def in_words(right: int, images: int) -> str:
    """Such as "87.50% (7 of 8 images: too few to tell)"."""
    few = ": too few to tell" if images < _FEW else ""
    return f"{right / images:.2%} ({right:,} of {images:,} images{few})"
