"""A comparison in figures, one array a row: as a table, HTML for a notebook, JSON for the manifest, and an error."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any

from utils.errors import ParityError
from utils.parity.judge import EXACT, Row, rounded_up, worst_first
from utils.tables import aligned

_HEADINGS = ("output", "input", "batch", "max abs", "error", "source's", "times", "top-1", "top-5", "allowed", "")
_RIGHT = range(2, 10)  # columns of numbers
_WORST = 5  # of the variables of a model, about 170, in tables
_IN_ERROR = 10  # lines of an error message
_NOTE = (
    "error: |error| / |truth| in the L2 norm, the truth being the source model in float64; source's: the same of the "
    "source framework's own float32; times: the one over the other. Where there is no source's: max |error| / "
    "max(1, max |reference|). top-1: of images whose best class the reference tells apart by more than is allowed."
)


@dataclass(frozen=True)
class Report:
    """All rows of a comparison. Passes if there is any row and each passes.

    framework: what computed the source's own float32, such as "PyTorch", where that is the measure.
    """

    rows: Sequence[Row]
    framework: str = ""

    @property
    def passed(self) -> bool:
        """Whether every comparison is within its tolerance, and there is one."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def tolerances(self) -> dict[str, float]:
        """The loosest tolerance applied, by output: taken from the rows, so that it cannot claim another.

        A measured one is rounded up to one digit, as it becomes part of the artefact: whoever measures it again, a
        little otherwise, makes the same bytes.
        """
        found: dict[str, float] = {}
        for row in self.rows:
            tolerance = row.tolerance if row.source is None else rounded_up(row.tolerance, digits=1)
            found[row.output] = max(tolerance, found.get(row.output, 0.0))
        return found

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as much as the source's own float32 the candidate errs, at worst, by output."""
        found: dict[str, float] = {}
        for row in self.rows:
            if row.ratio is not None and not math.isnan(row.ratio):
                found[row.output] = max(row.ratio, found.get(row.output, 0.0))
        return found

    @property
    def sentence(self) -> str:
        """What to remember: how much the outputs err, in units of the source framework's own error; or nothing."""
        ratios = self.ratios
        first = next((row.output for row in self.rows if row.output in ("logits", "features")), "")
        if first not in ratios:
            return ""
        others = ", ".join(f"{key} {value:.1f} times" for key, value in ratios.items() if key != first)
        source = f"{self.framework or 'the source'}'s own float32"
        return (
            f"Its {first} err {ratios[first]:.1f} times as much as {source} does, measured against float64: "
            f"the worst of all inputs{f' ({others})' if others else ''}."
        )

    def to_json(self) -> dict[str, Any]:
        """For the manifest: `passed`, `tolerance` and `ratio` by output, all rows; NaN and Inf as strings."""
        rows = [{key: _json_number(value) for key, value in asdict(row).items()} for row in self.rows]
        ratios = {key: _json_number(value) for key, value in self.ratios.items()}
        measured = {"ratio": ratios, "framework": self.framework, "sentence": self.sentence} if ratios else {}
        return {"passed": self.passed, "tolerance": self.tolerances, **measured, "rows": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report that a manifest holds, for showing it again; it ignores fields that a later version may add."""
        known = {field.name for field in fields(Row)}
        figures = ("max_abs", "relative", "rmse", "relative_l2", "tolerance", "source")
        rows = [{key: value for key, value in row.items() if key in known} for row in data["rows"]]
        return cls(
            [Row(**row | {key: float(row[key]) for key in figures if row.get(key) is not None}) for row in rows],
            data.get("framework", ""),
        )

    def require(self) -> None:
        """Does nothing if the report passes, else raises ParityError with the failed figures, worst first."""
        if self.passed:
            return
        if not self.rows:
            raise ParityError("parity failed: nothing was compared. Pass at least one output and input.")
        failed = [row for row in worst_first(self.rows) if not row.passed]
        # The worst of each figure before the rest: a fault in the outputs shows in every variable's gradient.
        firsts = {row.case: row for row in reversed(failed)}
        failed.sort(key=lambda row: firsts[row.case] is not row)
        lines = [f"  {describe(row)}" for row in failed[:_IN_ERROR]]
        if len(failed) > _IN_ERROR:
            lines.append(f"  and {len(failed) - _IN_ERROR} more")
        raise ParityError(
            f"parity failed in {len(failed)} of {len(self.rows)} comparisons: the exported model does not "
            "compute what its source computes, so do not use it. Worst first:\n" + "\n".join(lines)
        )

    def table(self) -> str:
        """The figures as aligned text, a line per output and input; of many variables, the worst."""
        head, *lines = aligned([_HEADINGS, *(cells for cells, _ in self._lines())], right=_RIGHT).splitlines()
        return "\n".join([head, "-" * max(map(len, [head, *lines])), *lines, "", self._verdict()])

    def _repr_html_(self) -> str:
        def cell(text: str, index: int, tag: str = "td", style: str = "") -> str:
            align = "right;white-space:nowrap" if index in _RIGHT else "left"  # lest 1e-07 breaks at its sign
            return f'<{tag} style="text-align:{align};padding:2px 10px;{style}">{html.escape(text)}</{tag}>'

        head = "".join(cell(text, index, "th") for index, text in enumerate(_HEADINGS))
        body = []
        for cells, passed in self._lines():
            # Colours that can be read on white and on black; the word says the same.
            verdict = "color:#2e9e5b" if passed else "color:#e0433a;font-weight:bold"
            styles = [""] * (len(cells) - 1) + [verdict]
            if not passed:
                styles[4] = verdict
            row = "".join(cell(text, i, style=style) for i, (text, style) in enumerate(zip(cells, styles, strict=True)))
            body.append(f"<tr>{row}</tr>")
        colour = "#2e9e5b" if self.passed else "#e0433a"
        return (
            f'<div><b style="color:{colour}">{html.escape(self._verdict())}</b>'
            f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f'<small style="opacity:0.7">{html.escape(_NOTE)}</small></div>'
        )

    def _verdict(self) -> str:
        if not self.rows:
            return "parity FAILED: nothing was compared"
        worst = worst_first(self.rows)[0]
        if not self.passed:
            failed = sum(not row.passed for row in self.rows)
            return f"parity FAILED in {failed} of {len(self.rows)} comparisons; worst: {describe(worst)}"
        return " ".join(
            filter(
                None,
                (f"parity passed in all {len(self.rows)} comparisons.", self.sentence, f"Worst: {describe(worst)}"),
            )
        )

    def _lines(self) -> list[tuple[tuple[str, ...], bool]]:
        lines = []
        for _, group in groupby(self.rows, key=lambda row: row.case):
            rows = list(group)
            if len(rows) > _WORST:
                lines.append(_summary(rows))
                rows = worst_first(rows)[:_WORST]
                lines += [_line(row, f"  {row.variable}") for row in rows]
            else:
                lines += [_line(row, f"{row.output} {row.variable}".strip()) for row in rows]
        return lines


def _summary(rows: list[Row]) -> tuple[tuple[str, ...], bool]:
    first, passed = rows[0], all(row.passed for row in rows)
    worst = max(rows, key=lambda row: row.severity)
    median = statistics.median(row.severity * row.tolerance for row in rows)
    label = f"{first.output} ({len(rows)}, median {_short(median)})"
    cells = (label, first.input, str(first.batch or ""), "", _short(worst.figure), *_measure(worst), "", "")
    return (*cells, _allowed(worst), _word(passed)), passed


def _line(row: Row, label: str) -> tuple[tuple[str, ...], bool]:
    errors = (_short(row.max_abs), _short(row.figure), *_measure(row))
    cells = (label, row.input, str(row.batch or ""), *errors, _share(row.top1), _share(row.top5))
    return (
        *cells,
        _allowed(row),
        _word(row.passed) + (f": {row.reason}" if row.reason else ""),
    ), row.passed


def _measure(row: Row) -> tuple[str, str]:
    return ("", "") if row.source is None else (_short(row.source), f"{row.ratio:.1f}")


def describe(row: Row) -> str:
    """One comparison in a line of text: what was compared, its error, and the tolerance."""
    where = ", ".join(filter(None, (f"{row.output} {row.variable}".strip(), row.input)))
    where += f", batch {row.batch}" if row.batch else ""
    measure = "relative error" if row.relative_l2 is None else "relative L2 error"
    if math.isnan(row.figure):
        return f"{where}: {row.reason}"
    sign = "<=" if row.figure <= row.tolerance else ">"
    figures = f"{measure} {_short(row.figure)} {sign} {_short(row.tolerance)}"
    if row.source is not None:
        figures += f", {row.ratio:.1f} times the source's own {_short(row.source)}"
    figures += f", max abs {_short(row.max_abs)}"
    agreement = "" if row.top1 is None else f", top-1 {_share(row.top1)}"
    return f"{where}: {figures}, RMSE {_short(row.rmse)}{agreement}" + (f" ({row.reason})" if row.reason else "")


def _allowed(row: Row) -> str:
    return "none" if row.tolerance <= EXACT else _short(row.tolerance)


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _word(passed: bool) -> str:
    return "pass" if passed else "FAIL"


def _json_number(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
