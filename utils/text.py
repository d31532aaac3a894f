"""Users' names as what they are: printed without control characters, drawn without markup, equal ones told apart."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

_UNPRINTED = ("Cc", "Cs", "Zl", "Zp")  # controls, halves of letters, line ends
_TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # they reorder what stands beside them


def printed(name: str) -> str:
    """A name on one line, for terminals and pages: characters that control anything are `escaped`."""
    return "".join(escaped(letter) if _controls(letter) else letter for letter in name)


def printed_lines(text: str) -> str:
    """As `printed`, for a text of several lines."""
    return "\n".join(map(printed, text.split("\n")))


def drawn(text: str) -> str:
    """As `printed_lines`, for matplotlib, which reads mathematics between dollars."""
    return printed_lines(text).replace("$", r"\$")


def short_names(names: Mapping[int, str], longest: int) -> list[str]:
    """Each name up to its first comma; of those that would be equal, more of the name, or their number behind it.

    names: by the number of what they name. longest: letters of a name that are kept.
    """
    short = [_cut(name.split(",")[0], longest) for name in names.values()]
    short = _where_unique(short, [_cut(name, longest) for name in names.values()])
    return _where_unique(short, [f"{name} ({number})" for name, number in zip(short, names, strict=True)])


def _where_unique(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [other if names.count(name) > 1 else name for name, other in zip(names, others, strict=True)]


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _controls(letter: str) -> bool:
    return unicodedata.category(letter) in _UNPRINTED or unicodedata.bidirectional(letter) in _TURNING


def escaped(letter: str) -> str:
    """As Python writes it in a string, in ASCII: ESC is x1b behind a backslash."""
    return letter.encode("unicode_escape").decode()
