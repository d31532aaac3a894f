"""Tables as text: in Markdown, and aligned for a terminal. `right` names the columns of numbers, by their index."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Row = Sequence[str]


def markdown(headings: Row, rows: Sequence[Row], right: Collection[int] = ()) -> str:
    """A Markdown table without the last line break; bars and line breaks in cells do not end them."""
    rule = ["---:" if column in right else "---" for column in range(len(headings))]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (headings, rule, *rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def aligned(rows: Sequence[Row], right: Collection[int] = ()) -> str:
    """Columns as wide as their widest cell, two blanks between them, and no blanks at the ends of lines."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
