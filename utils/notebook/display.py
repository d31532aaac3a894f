"""Pictures and small tables for the notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.tables import aligned

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from utils.images.labels import Label

_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3")


class Facts:
    """A table of two columns: what, and its value. In a notebook as HTML, elsewhere as text."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = {name: str(value) for name, value in facts.items()}

    def __str__(self) -> str:
        return aligned(list(self.facts.items()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.facts.items()
        )
        return f"<table>{''.join(rows)}</table>"


class Notice:
    """A line that cannot be overlooked."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"!!! {self.text}"

    def _repr_html_(self) -> str:
        style = "padding:0.6em 1em;border-left:6px solid #c44e52;background:#fbe9e7;color:#7b1c1c;font-weight:bold"
        return f"<div style='{style}'>{html.escape(self.text)}</div>"


def notices(*texts: str) -> None:
    """Shows each that says something as a `Notice`."""
    from IPython.display import display

    for text in filter(None, texts):
        display(Notice(text))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, over the last axis."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def plot_predictions(
    photographs: Mapping[str, Image.Image],
    predictions: Mapping[str, np.ndarray],
    names: Sequence[str] | Mapping[str, Sequence[str]],
    top_k: int = 5,
    note: str = "",
) -> Figure:
    """Each photograph beside a bar chart of the best classes of each model.

    predictions: probabilities [photographs, classes] by the model's title. names: of the classes, in their order; by
    title where the models' classes differ.
    """
    from matplotlib import pyplot as plt

    rows, columns = len(photographs), 1 + len(predictions)
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 2.5 * rows), squeeze=False, layout="constrained")
    for row, (title, photograph) in enumerate(photographs.items()):
        axes[row, 0].imshow(photograph)
        axes[row, 0].set_title(title, fontsize=10)
        axes[row, 0].axis("off")
        for column, (model, probabilities) in enumerate(predictions.items(), start=1):
            named = names[model] if isinstance(names, Mapping) else names
            _bars(axes[row, column], probabilities[row], named, top_k, _COLOURS[(column - 1) % len(_COLOURS)])
            if row == 0:
                axes[row, column].set_title(model, fontsize=10)
    if note:
        figure.suptitle(note, fontsize=11, color="#c44e52", weight="bold")
    plt.close(figure)  # the caller shows it; pyplot would show it again
    return figure


def _bars(axis: Any, probabilities: np.ndarray, names: Sequence[str], top_k: int, colour: str) -> None:
    best = np.argsort(-probabilities, kind="stable")[:top_k][::-1]
    bars = axis.barh([_shortened(names[i]) for i in best], probabilities[best], color=colour)
    axis.bar_label(bars, [f"{p:.4f}" for p in probabilities[best]], fontsize=8, padding=3)
    axis.set_xlim(0, max(0.05, 1.25 * probabilities[best].max()))
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _shortened(name: str, length: int = 28) -> str:
    first = name.split(",")[0]
    return first if len(first) <= length else first[: length - 1] + "…"


def plot_features(
    photographs: Mapping[str, Image.Image], expected: np.ndarray, found: np.ndarray, note: str = ""
) -> Figure:
    """Each photograph beside its features, [photographs, width], of the source against those of the export."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        len(photographs), 2, figsize=(9.2, 2.5 * len(photographs)), squeeze=False, layout="constrained"
    )
    for row, (title, photograph) in enumerate(photographs.items()):
        axes[row, 0].imshow(photograph)
        axes[row, 0].set_title(title, fontsize=10)
        axes[row, 0].axis("off")
        axes[row, 1].plot(expected[row], found[row], ".", markersize=2, color=_COLOURS[0])
        axes[row, 1].set_xlabel("feature in the source framework", fontsize=8)
        axes[row, 1].set_ylabel("in TensorFlow", fontsize=8)
        axes[row, 1].tick_params(labelsize=8)
    if note:
        figure.suptitle(note, fontsize=11, color="#c44e52", weight="bold")
    plt.close(figure)
    return figure


def plot_answers(
    photographs: Mapping[str, Image.Image],
    output: str,
    answers: Mapping[str, np.ndarray],
    labels: Sequence[Label] | None,
    note: str = "",
) -> Figure:
    """Each photograph beside what the source and the export, by title, give for it.

    output: of which kind the answers are: "logits" [photographs, classes], of which the best are shown under the names
    of `labels`, or "features" [photographs, width].
    """
    if output == "features":
        return plot_features(photographs, *answers.values(), note=note)
    classes = next(iter(answers.values())).shape[1]
    names = [label.name for label in labels] if labels else [f"class {index}" for index in range(classes)]
    return plot_predictions(photographs, {title: softmax(found) for title, found in answers.items()}, names, note=note)


def plot_similarities(titles: Sequence[str], similarities: Mapping[str, np.ndarray], note: str = "") -> Figure:
    """A matrix of cosine similarities, [N, N] between `titles`, for each model's title, with its numbers written in."""
    from matplotlib import pyplot as plt

    size = 1.6 + 0.75 * len(titles)
    figure, axes = plt.subplots(
        1, len(similarities), figsize=(size * len(similarities), size), squeeze=False, layout="constrained"
    )
    for axis, (model, matrix) in zip(axes[0], similarities.items(), strict=True):
        axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r")
        axis.set_title(model, fontsize=10)
        axis.set_xticks(range(len(titles)), titles, rotation=30, ha="right", fontsize=8)
        axis.set_yticks(range(len(titles)), titles, fontsize=8)
        for row, values in enumerate(matrix):
            for column, value in enumerate(values):
                dark = abs(value) > 0.6
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    if note:
        figure.suptitle(note, fontsize=11, color="#c44e52", weight="bold")
    plt.close(figure)
    return figure
