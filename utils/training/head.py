"""The head, fitted to features by a solver made for it: multinomial logistic regression.

The penalty is chosen by cross-validation. Features are standardised to fit it, and the scaling is folded into the
head's weights, so that it takes the features as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

# Half the squared weights count so much against the mean loss of an image, for features of variance 1.
# None weaker: with features that hardly vary, such heads amplify rounding beyond what the check of signatures allows.
PENALTIES = (1.0, 0.1, 0.01, 1e-3, 1e-4)
UNCHOSEN = 0.01  # if there is nothing to choose by: one image of each class
FOLDS = 5
_MOST_IMAGES = 2000  # for choosing the penalty
_SLOW = 2e8  # products of a pass, from which the penalty is chosen by one fold alone
_FLOPS, _STEPS = 4e11, (10, 1000)  # of one fit; about 10 seconds on two cores, unless they are many classes


@dataclass(frozen=True)
class Score:
    """How many images are right, of how many, and the mean loss."""

    right: int
    images: int
    loss: float


@dataclass(frozen=True)
class Head:
    """What a Dense layer needs, float32 [units, classes] and [classes], and how it was found.

    converged: whether the solver came to its end.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    converged: bool

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Logits, float32 [images, classes], of features, float32 [images, units]."""
        return features @ self.kernel + self.bias

    def scaled(self, factor: float) -> Head:
        """The same classes, more or less surely."""
        return replace(self, kernel=self.kernel * np.float32(factor), bias=self.bias * np.float32(factor))


def fit_head(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int) -> Head:
    """The head with the penalty that cross-validation finds best.

    Args:
        features: float32 [copies, images, units]; copies of an image, such as mirrored, are never held out apart.
        labels: int64 [images]; every class has an image.
        weights: what an image counts for, by class.
        seed: of the folds.
    """
    few = _some(labels, _MOST_IMAGES, seed)
    scores = cross_validate(features[:, few], labels[few], weights, seed, PENALTIES)
    penalty = min(scores, key=lambda each: scores[each].loss) if scores else UNCHOSEN
    return next(_fits(features, labels, weights, (penalty,)))


def cross_validate(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, seed: int, penalties: tuple[float, ...]
) -> dict[float, Score]:
    """The score of each penalty on images that were held out, until one is worse than that before it.

    Of a class with a single image none is held out. Args: as of `fit_head`; penalties from strong to weak.
    """
    fold_of = _folds(labels, seed)
    folds = [fold for fold in range(FOLDS) if (fold_of == fold).any()]
    if features.size * len(weights) > _SLOW:
        folds = folds[:1]
    if not folds:
        return {}
    parts = [(features[0, fold_of == fold], labels[fold_of == fold]) for fold in folds]
    # Each penalty's heads start from those of the penalty before.
    fits = [_fits(features[:, fold_of != fold], labels[fold_of != fold], weights, penalties) for fold in folds]
    scores: dict[float, Score] = {}
    for penalty, heads in zip(penalties, zip(*fits, strict=True), strict=True):
        found = [_score(head(x), truth, weights) for head, (x, truth) in zip(heads, parts, strict=True)]
        images = sum(each.images for each in found)
        loss = sum(each.loss * each.images for each in found) / images
        worse = bool(scores) and loss > min(each.loss for each in scores.values())
        scores[penalty] = Score(sum(each.right for each in found), images, loss)
        if worse:
            break
    return scores


def _score(logits: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Score:
    logits = logits.astype(np.float64)
    losses = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(truth)), truth]
    return Score(int((logits.argmax(axis=1) == truth).sum()), len(truth), float((losses * weights[truth]).mean()))


def _fits(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, penalties: tuple[float, ...]
) -> Iterator[Head]:
    """A head for each penalty, fitted when it is asked for; arrays as of `fit_head`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    copies, images, units = features.shape
    rows = features.reshape(copies * images, units).astype(np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    scale[scale <= 1e-6 * np.abs(rows).max(axis=0)] = np.inf  # a constant feature varies by rounding alone
    rows = (rows - mean) / scale
    truth = np.tile(labels, copies)
    counts = weights[truth] / weights[truth].mean()
    most = int(np.clip(_FLOPS / (4 * rows.size * len(weights)), *_STEPS))
    solver = LogisticRegression(warm_start=True, max_iter=most)
    for penalty in penalties:
        solver.set_params(C=1 / (penalty * len(truth)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told by `converged`
            solver.fit(rows, truth, sample_weight=counts)
        kernel, bias = solver.coef_.T, solver.intercept_
        if len(solver.classes_) == 2:  # scikit-learn's are of the second class alone
            kernel, bias = kernel * [-0.5, 0.5], bias * [-0.5, 0.5]
        kernel = kernel / scale[:, None]
        folded = kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32)
        yield Head(*folded, penalty, bool(np.max(solver.n_iter_) < most))


def _folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each image, by class in turn; -1, for never, if it is the only one of its class."""
    rng, fold_of = np.random.default_rng(seed), np.full(len(labels), -1)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) > 1:
            fold_of[members] = (np.arange(len(members)) + label) % FOLDS
    return fold_of


def _some(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Indices of at most about `most` images, of each class its share and at least two."""
    if len(labels) <= most:
        return np.arange(len(labels))
    rng, chosen = np.random.default_rng(seed), []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        chosen.append(members[: max(2, round(most * len(members) / len(labels)))])
    return np.sort(np.concatenate(chosen))
