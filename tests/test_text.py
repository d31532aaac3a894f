"""Names as they are: nothing in them controls a terminal, a page or a picture."""

import pytest

from utils.text import drawn, printed, printed_lines, short_names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Blumen, größere 花 \u200d👩‍🚒", "Blumen, größere 花 \u200d👩‍🚒"),
        ("\x1b[2Jright\r", "\\x1b[2Jright\\r"),
        ("two\nlines\u2028three\x85", "two\\nlines\\u2028three\\x85"),
        ("caf\udce9", "caf\\udce9"),
        ("gnp.\u202egpj", "gnp.\\u202egpj"),
    ],
)
def test_what_controls_anything_is_printed_as_an_escape(name, expected):
    assert printed(name) == expected
    printed(name).encode()


def test_lines_stay_lines():
    assert printed_lines("a\nb\x1b") == "a\nb\\x1b"


@pytest.mark.parametrize("name", ["Ba$$in", "$x^2$", "$", "a\\$b", "_hidden", "100 % {x}"])
def test_matplotlib_draws_what_the_name_is(name):
    from matplotlib.figure import Figure

    text = Figure().text(0, 0, drawn(name))
    shown, is_mathematics = text._preprocess_math(text.get_text())
    assert (shown, is_mathematics) == (name, False)


def test_names_that_are_cut_to_the_same_are_told_apart():
    names = {134: "crane", 517: "crane", 638: "maillot", 639: "maillot, tank suit", 1: "tench, Tinca tinca"}
    assert short_names(names, 28) == ["crane (134)", "crane (517)", "maillot", "maillot, tank suit", "tench"]
    assert short_names({0: "x" * 40 + "a", 1: "x" * 40 + "b", 2: "y" * 40}, 10) == [
        "xxxxxxxxx… (0)", "xxxxxxxxx… (1)", "yyyyyyyyy…",
    ]  # fmt: skip
