"""Pictures and small tables for the notebooks."""

from __future__ import annotations

import functools
import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.tables import aligned
from utils.text import drawn, escaped, printed, printed_lines, short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from utils.images.labels import Label

_COLOURS = ("#4c72b0", "#dd8452", "#55a868", "#8172b3")
_LONGEST_NAME = 28  # letters of a class's name beside its bar
_LETTERS_AN_INCH = 9  # bold, of 11 points; capitals are wider than most


# Of those that are installed, the first that has a letter draws it, after matplotlib's own.
_FONTS = ("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR", "Noto Sans Arabic")
_FONTS += (
    "WenQuanYi Zen Hei",
    "IPAexGothic",
    "Hiragino Sans",
    "PingFang SC",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
)
_FONTS += ("Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Hebrew")
_MISSING = 20  # letters that a line names
_told: set[str] = set()


class Facts:
    """A table of two columns: what, and its value. In a notebook as HTML, elsewhere as text.

    folded: the line behind which it waits until a reader opens it; "" shows it.
    """

    def __init__(self, facts: Mapping[str, Any], folded: str = "") -> None:
        self.facts = {printed(name): printed_lines(str(value)) for name, value in facts.items()}
        self.folded = folded

    def __repr__(self) -> str:
        return aligned(list(self.facts.items())) if self.facts else ""

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self.facts.items()
        )
        table = f"<table>{''.join(rows)}</table>" if self.facts else ""
        if not self.folded or not self.facts:
            return table
        return f"<details><summary>{html.escape(self.folded)}</summary>{table}</details>"


class Notice:
    """A line that cannot be overlooked."""

    def __init__(self, text: str) -> None:
        self.text = printed_lines(text)

    _MARK, _STYLE = "!!! ", "border-left:6px solid #c44e52;background:#fbe9e7;color:#7b1c1c;font-weight:bold"

    def __repr__(self) -> str:
        return f"{self._MARK}{self.text}"

    def _repr_html_(self) -> str:
        style = f"padding:0.6em 1em;{self._STYLE};white-space:pre-line"
        return f"<div style='{style}'>{html.escape(self.text)}</div>"


class Remark(Notice):
    """A line that is good to know, and no warning."""

    _MARK, _STYLE = "", "border-left:6px solid #8c9bb0;background:#f1f4f8;color:#2b3a4f"


def notices(*texts: str) -> None:
    """Shows each that says something as a `Notice`."""
    from IPython.display import display

    for text in filter(None, texts):
        display(Notice(text))


def remarks(*texts: str) -> None:
    """Shows each that says something as a `Remark`."""
    from IPython.display import display

    for text in filter(None, texts):
        display(Remark(text))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities, float64, over the last axis."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def percent(probability: float) -> str:
    """Such as "62.2 %"."""
    return f"{100 * probability:.1f} %"


def new_figure(rows: int, columns: int, width: float, height: float, note: str = "") -> tuple[Figure, np.ndarray]:
    """A figure and its axes, [rows, columns].

    Args:
        rows: of axes.
        columns: of axes.
        width: of the figure, in inches.
        height: of the figure, in inches.
        note: stands above the axes, as a warning does, in as many lines as it needs.
    """
    from matplotlib import pyplot as plt

    _letters()  # an axis keeps the fonts that there were when it was made
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained")
    plt.close(figure)  # the caller shows it; pyplot would show it again
    if note:
        # A line wider than the figure would widen the picture, and shrink all that is in it.
        note = textwrap.fill(note, int(_LETTERS_AN_INCH * width))
        figure.suptitle(*lettered([note]), fontsize=11, color="#c44e52", weight="bold")
    return figure, axes


def lettered(texts: Iterable[str]) -> list[str]:
    """Each as `drawn`; letters that no font here has become escapes, and a line names them, once."""
    lines = [printed_lines(text) for text in texts]
    missing = {letter for line in lines for letter in line if letter not in _letters()} - {"\n"}
    if new := sorted(missing - _told):
        _told.update(new)
        named = ", ".join(f"{letter} as {escaped(letter)}" for letter in new[:_MISSING])
        print(
            f"No font of this machine has these letters, so they are drawn as escapes: {named}"
            f"{', …' if len(new) > _MISSING else ''}. Install one, such as Noto Sans CJK, and start again."
        )
    return [drawn("".join(escaped(each) if each in missing else each for each in line)) for line in lines]


@functools.cache
def _letters() -> frozenset[str]:
    """All that matplotlib can draw here, once it knows of further fonts."""
    from matplotlib import font_manager, ft2font, rcParams

    installed = {font.name for font in font_manager.fontManager.ttflist}
    rcParams["font.family"] = [*rcParams["font.family"], *(name for name in _FONTS if name in installed)]
    paths = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in rcParams["font.family"]]
    return frozenset(chr(code) for path in paths for code in ft2font.FT2Font(path).get_charmap())


def show_picture(axis: Any, picture: Image.Image | np.ndarray, title: str, size: int = 10) -> None:
    """Draws a picture of any size under its title, without axes."""
    axis.imshow(picture)
    axis.set_title(*lettered([title]), fontsize=size)
    axis.axis("off")


def plot_predictions(
    photographs: Mapping[str, Image.Image],
    predictions: Mapping[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
    top_k: int = 5,
    note: str = "",
) -> Figure:
    """Each photograph beside a bar chart of the best classes of each model.

    Args:
        photographs: by title.
        predictions: probabilities [photographs, classes] by the model's title.
        names: of its classes, by the same title.
        top_k: how many classes are shown.
        note: as of `new_figure`.
    """
    rows, columns = len(photographs), 1 + len(predictions)
    figure, axes = new_figure(rows, columns, 4.6 * columns, 2.5 * rows, note)
    for row, (title, photograph) in enumerate(photographs.items()):
        show_picture(axes[row, 0], photograph, title)
        for column, (model, probabilities) in enumerate(predictions.items(), start=1):
            colour = _COLOURS[(column - 1) % len(_COLOURS)]
            _bars(axes[row, column], probabilities[row], names[model], top_k, colour)
            if row == 0:
                axes[row, column].set_title(*lettered([model]), fontsize=10)
    return figure


def _bars(axis: Any, probabilities: np.ndarray, names: Sequence[str], top_k: int, colour: str) -> None:
    best = np.argsort(-probabilities, kind="stable")[:top_k][::-1]
    # At numeric positions: bars by name would lie on each other if names are equal.
    bars = axis.barh(range(len(best)), probabilities[best], color=colour)
    axis.set_yticks(range(len(best)), lettered(short_names({int(i): names[i] for i in best}, _LONGEST_NAME)))
    axis.bar_label(bars, [percent(p) for p in probabilities[best]], fontsize=8, padding=3)
    axis.set_xlim(0, max(0.05, 1.25 * probabilities[best].max()))  # with room for the number
    axis.set_xticks([tick for tick in axis.get_xticks() if 0 <= tick <= 1])
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def plot_answers(
    photographs: Mapping[str, Image.Image],
    output: str,
    answers: Mapping[str, np.ndarray],
    labels: Sequence[Label] | None,
    note: str = "",
) -> Figure | Notice:
    """Each photograph beside what the source and the export give for it.

    Args:
        photographs: by title.
        output: the kind of answers: "logits" [photographs, classes], of which the best are shown, or "features"
            [photographs, width], of which each is a dot: the source's against the export's.
        answers: by the title of what gave them.
        labels: of the classes, where they have names.
        note: as of `new_figure`.
    """
    if not photographs:
        return Notice("This model takes no photographs: their channels are not as many as its images'.")
    if output == "logits":
        classes = next(iter(answers.values())).shape[1]
        names = [label.name for label in labels] if labels else [f"class {index}" for index in range(classes)]
        probabilities = {title: softmax(found) for title, found in answers.items()}
        return plot_predictions(photographs, probabilities, dict.fromkeys(answers, names), note=note)
    figure, axes = new_figure(len(photographs), 2, 9.2, 2.5 * len(photographs), note)
    for (left, right), (title, photograph), *features in zip(axes, photographs.items(), *answers.values(), strict=True):
        show_picture(left, photograph, title)
        right.plot(*features, ".", markersize=2, color=_COLOURS[0])
        right.set_xlabel("feature in the source framework", fontsize=8)
        right.set_ylabel("in TensorFlow", fontsize=8)
        right.tick_params(labelsize=8)
    return figure


def plot_neighbours(
    query: str, photographs: Mapping[str, Image.Image], similarities: Mapping[str, Mapping[str, float]]
) -> Figure:
    """A row for each model: the query, then the other photographs, the most similar first.

    Args:
        query: title of one of the photographs.
        photographs: by title.
        similarities: of each other photograph to the query, by the model's title.
    """
    rows, columns = len(similarities), len(photographs)
    figure, axes = new_figure(rows, columns, 2.6 * columns, 2.5 * rows)
    for row, (model, found) in zip(axes, similarities.items(), strict=True):
        show_picture(row[0], photographs[query], f"{query}, as seen by\n{model}")
        ranked = sorted(found, key=found.__getitem__, reverse=True)
        for axis, title in zip(row[1:], ranked, strict=True):
            show_picture(axis, photographs[title], f"{title}\ncosine {found[title]:.2f}")
    return figure
