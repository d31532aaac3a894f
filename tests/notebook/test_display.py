"""Pictures of the notebooks: names of any kind, each row its own."""

import numpy as np
import pytest
from labelled import coloured_images

from utils.notebook import display
from utils.training import plots

PICTURE = np.zeros((4, 4, 3), np.uint8)


def drawn_without_warning(figure):
    figure.draw_without_rendering()
    return figure


@pytest.mark.filterwarnings("error")
def test_every_class_has_a_bar_of_its_own_under_a_name_of_its_own():
    probabilities = {"model": np.array([[0.4, 0.3, 0.2, 0.1]])}
    names = {"model": ["crane", "crane", "Ba$$in", "\x1b[31m"]}
    figure = drawn_without_warning(display.plot_predictions({"$": PICTURE}, probabilities, names, top_k=4))
    axis = figure.axes[1]
    assert len({bar.get_y() for bar in axis.patches}) == 4
    labels = [label.get_text() for label in axis.get_yticklabels()]
    assert labels == ["\\x1b[31m", "Ba\\$\\$in", "crane (1)", "crane (0)"]


def test_a_warning_of_any_length_is_no_wider_than_its_picture():
    note = "Made from SYNTHETIC WEIGHTS, random numbers: " + ", ".join(["CONVMIXER_768_32_SYNTHETIC"] * 9)
    figure = drawn_without_warning(
        display.plot_predictions({"a": PICTURE}, {"m": np.eye(1, 9)}, {"m": ["x"] * 9}, note=note)
    )
    assert figure._suptitle.get_window_extent().width < figure.bbox.width


@pytest.mark.filterwarnings("error")
def test_letters_without_a_font_are_named_once_and_stay_different(monkeypatch, capsys):
    monkeypatch.setattr(display, "_letters", lambda: frozenset(map(chr, range(128))))
    monkeypatch.setattr(display, "_told", set())
    for _ in range(2):
        figure = drawn_without_warning(plots.plot_images([PICTURE] * 2, ["猫", "犬\nnot 猫"]))
    assert [axis.get_title() for axis in figure.axes] == ["\\u732b", "\\u72ac\nnot \\u732b"]
    said = capsys.readouterr().out
    assert (said.count("猫"), said.count("犬"), said.count("\n")) == (1, 1, 1)


@pytest.mark.filterwarnings("error")
def test_a_dollar_in_a_class_is_a_dollar_in_every_picture_of_a_fine_tuning():
    import dataclasses

    images = dataclasses.replace(coloured_images(), classes=("Ba$$in", "$x", "_y"))
    probabilities = np.eye(3)[(images.validation.labels + 1) % 3]
    for figure in (plots.plot_confusion(images, probabilities), plots.plot_mistakes(images, probabilities)):
        drawn_without_warning(figure)


def test_tables_and_notices_keep_to_their_lines():
    shown = [display.Facts({"a\nb": "\x1b[2J"}), display.Notice("\x1b[2J")]
    assert all("\x1b" not in repr(each) + each._repr_html_() for each in shown)
    assert len(repr(shown[0]).splitlines()) == 1
