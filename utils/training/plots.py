"""Pictures of a fine-tuning: augmented examples, learning rate, curves, confusion matrix, the worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TRAINING, _VALIDATION = "#4c72b0", "#dd8452"
_MOST_CLASSES_WITH_NAMES = 30  # beyond that a confusion matrix's labels would overlap
_MOST_CLASSES_WITH_NUMBERS = 12


def plot_images(images: np.ndarray, titles: Sequence[str], columns: int = 6) -> Figure:
    """A grid of images, float [N, height, width, 3] in [0, 1], each under its title."""
    plt = _pyplot()
    rows = -(-len(images) // columns)
    size = (1.55 * columns, 1.75 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=8)
    return _closed(figure)


def plot_learning_rate(schedule: Callable[[int], Any], steps: int) -> Figure:
    """The learning rate of every step."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 2.2), layout="constrained")
    at = np.unique(np.linspace(0, steps, 200).astype(int))
    axis.plot(at, [float(schedule(int(step))) for step in at], color=_TRAINING)
    axis.set(xlabel="step", ylabel="learning rate", xlim=(0, steps))
    _plain(axis)
    return _closed(figure)


def plot_history(history: Mapping[str, Sequence[float]], best_epoch: int) -> Figure:
    """Loss and accuracy by epoch, of training and of validation; the epoch that is kept is marked."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 3), layout="constrained")
    for axis, name in zip(axes, ("loss", "accuracy"), strict=True):
        for prefix, label, colour in (("", "training", _TRAINING), ("val_", "validation", _VALIDATION)):
            values = history[prefix + name]
            axis.plot(range(1, len(values) + 1), values, "o-", markersize=3, color=colour, label=label)
        axis.axvline(best_epoch + 1, color="#888888", linewidth=1, linestyle=":", label="kept")
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.get_major_locator().set_params(integer=True)
        _plain(axis)
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].legend(fontsize=8, frameon=False)
    return _closed(figure)


def plot_confusion(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> Figure:
    """The confusion matrix of true and predicted classes, int [N] each; rows are shaded by share of the true class."""
    from sklearn.metrics import confusion_matrix

    plt = _pyplot()
    counts = confusion_matrix(labels, predictions, labels=np.arange(len(names)))
    side = 2.2 + 0.32 * min(len(names), _MOST_CLASSES_WITH_NAMES)
    figure, axis = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, format=lambda value, _: f"{value:.0%}", shrink=0.8)
    axis.set(xlabel="predicted", ylabel="true")
    if len(names) <= _MOST_CLASSES_WITH_NAMES:
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
    if len(names) <= _MOST_CLASSES_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, count or "", ha="center", va="center", fontsize=8, color=colour)
    return _closed(figure)


def worst_mistakes(labels: np.ndarray, probabilities: np.ndarray, most: int = 6) -> list[int]:
    """Indices of wrong answers, the surest first."""
    predictions = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    return wrong[np.argsort(-probabilities[wrong, predictions[wrong]], kind="stable")][:most].tolist()


def plot_mistakes(
    images: Sequence[np.ndarray], labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str]
) -> Figure:
    """Photographs that were mistaken, each uint8 of any size: what they are, and what was said how surely."""
    best = probabilities.argmax(axis=1)
    titles = [
        f"{names[label]}\nnot {names[guess]} ({row[guess]:.0%})"
        for label, guess, row in zip(labels, best, probabilities, strict=True)
    ]
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(images), figsize=(1.9 * len(images), 2.4), squeeze=False, layout="constrained")
    for axis, image, title in zip(axes.flat, images, titles, strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=8)
        axis.axis("off")
    return _closed(figure)


def _pyplot() -> Any:
    from matplotlib import pyplot

    return pyplot


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def _closed(figure: Figure) -> Figure:
    _pyplot().close(figure)  # the caller shows it; pyplot would show it again
    return figure
