"""Pictures of a fine-tuning: augmented examples, curves, confusion matrix, the worst mistakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.notebook.display import Remark, lettered, new_figure, show_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from utils.training.datasets import LabelledImages

_TRAINING, _VALIDATION = "#4c72b0", "#dd8452"
_MOST_CLASSES_WITH_NAMES = 30  # beyond that a confusion matrix's labels would overlap
_MOST_CLASSES_WITH_NUMBERS = 12


def plot_images(images: Sequence[np.ndarray], titles: Sequence[str], columns: int = 6) -> Figure:
    """A grid of images, each uint8 of any size or float in [0, 1], under its title."""
    lettered(titles)  # what no font has is named for all at once
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = new_figure(rows, columns, 1.6 * columns, (1.55 + 0.2 * titles[0].count("\n")) * rows + 0.2)
    for axis in axes.flat[len(images) :]:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        show_picture(axis, image, title, size=8)
    return figure


def plot_history(
    history: Mapping[str, Sequence[float]], best_epoch: int, schedule: Callable[[int], Any], steps: int
) -> Figure:
    """Loss and accuracy by epoch, of training and of validation, and the learning rate.

    Args:
        history: by epoch.
        best_epoch: which is kept, and marked; from 0, -1 is before the first.
        schedule: the learning rate by step.
        steps: of an epoch.
    """
    figure, (axes,) = new_figure(1, 3, 12, 3)
    count = len(history["loss"])
    for axis, name in zip(axes, ("loss", "accuracy"), strict=False):
        for prefix, label, colour in (("", "training", _TRAINING), ("val_", "validation", _VALIDATION)):
            axis.plot(range(1, count + 1), history[prefix + name], "o-", markersize=3, color=colour, label=label)
        axis.axvline(best_epoch + 1, color="#888888", linewidth=1, linestyle=":", label="kept")
    at = np.linspace(0, count, 200)
    axes[2].plot(at, [float(schedule(int(epoch * steps))) for epoch in at], color=_TRAINING)
    for axis, name in zip(axes, ("loss", "accuracy", "learning rate"), strict=True):
        axis.set(xlabel="epoch", ylabel=name)
        _whole_numbers(axis)
        _plain(axis)
    axes[1].yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def plot_confusion(images: LabelledImages, probabilities: np.ndarray) -> Figure:
    """The confusion matrix of the validation images, given `probabilities` [images, classes]; rows add up to 100 %."""
    from sklearn.metrics import confusion_matrix

    names = images.classes
    counts = confusion_matrix(images.validation.labels, probabilities.argmax(axis=1), labels=np.arange(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.2 + 0.32 * min(len(names), _MOST_CLASSES_WITH_NAMES)
    figure, ((axis,),) = new_figure(1, 1, side + 0.8, side)
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, format=lambda value, _: f"{value:.0%}", shrink=0.8)
    axis.set(xlabel="predicted", ylabel="true")
    if len(names) <= _MOST_CLASSES_WITH_NAMES:
        axis.set_xticks(range(len(names)), lettered(names), rotation=90, fontsize=8)
        axis.set_yticks(range(len(names)), lettered(names), fontsize=8)
    if len(names) <= _MOST_CLASSES_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, count or "", ha="center", va="center", fontsize=8, color=colour)
    return figure


def plot_mistakes(images: LabelledImages, probabilities: np.ndarray, most: int = 6) -> Figure | Remark:
    """The validation images that were mistaken most surely: what they are, and what was said how surely."""
    labels, guesses = images.validation.labels, probabilities.argmax(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    if not len(wrong):
        return Remark(f"Not one mistake in {len(labels)} validation images.")
    sureness = probabilities[np.arange(len(labels)), guesses]
    worst = wrong[np.argsort(-sureness[wrong], kind="stable")][:most]
    titles = [f"{images.classes[labels[i]]}\nnot {images.classes[guesses[i]]} ({sureness[i]:.0%})" for i in worst]
    return plot_images([images.validation.read(i) for i in worst], titles)


def _whole_numbers(axis: Any) -> None:
    axis.xaxis.get_major_locator().set_params(integer=True)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
