"""Tables as text."""

from utils.tables import aligned, markdown


def test_a_cell_cannot_end_its_row():
    assert markdown(["a", "b"], [["x|y", "1\n2"]], right=[1]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"


def test_columns_are_as_wide_as_their_widest_cell_and_lines_end_in_no_blanks():
    assert aligned([["a", "b", ""], ["long", "12.5", "c"]], right=[1]) == "a        b\nlong  12.5  c"
    assert aligned([]) == ""
