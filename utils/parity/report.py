"""A comparison in figures, one array a row: as a table, HTML for a notebook, JSON for the manifest, and an error."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import groupby
from typing import Any

from utils.errors import ParityError
from utils.parity.judge import EXACT, Row, rounded_up, worst_first
from utils.tables import aligned

_HEADINGS = ("output", "input", "batch", "max abs", "error", "source's", "times", "top-1", "top-5", "allowed", "")
_RIGHT = range(2, 10)  # columns of numbers
_WORST = 5  # of the variables of a model, about 170, in tables
_IN_ERROR = 10  # lines of an error message
_COLOURS = {True: "color:#2e9e5b", False: "color:#e0433a;font-weight:bold"}
_OWN = (
    "error: |error| / |truth| in the L2 norm, the truth being the source model in float64; source's: the same of the "
    "source framework's own float32; times: the one over the other."
)
_REFERENCE = "error: max |error| / max(1, max |reference|)."
_TOP1 = "top-1: of images whose best class the reference tells apart by more than is allowed."


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
        return "\n".join([head, "-" * max(map(len, [head, *lines])), *lines, "", " ".join(self._verdict()).strip()])

    def _repr_html_(self) -> str:
        def cells(tag: str, texts: Sequence[str], style: str = "") -> str:
            # Lest 1e-07 breaks at its sign. The verdict, last, has a colour that can be read on white and on black.
            numbers = ["right;white-space:nowrap"] * len(_RIGHT)
            styles = ["left;overflow-wrap:anywhere", "left;min-width:8em", *numbers]
            return "".join(
                f'<{tag} style="text-align:{align};padding:2px 6px">{html.escape(text)}</{tag}>'
                for index, (text, align) in enumerate(zip(texts, [*styles, f"left;{style}"], strict=True))
                if index in used
            )

        lines = list(self._lines())
        used = [index for index in range(len(_HEADINGS)) if any(texts[index] for texts, _ in lines)]
        rows = "".join(f"<tr>{cells('td', texts, _COLOURS[passed])}</tr>" for texts, passed in lines)
        verdict, figures = map(html.escape, self._verdict())
        return (
            f'<div><b style="{_COLOURS[self.passed]}">{verdict}</b> {figures}'
            f'<table style="border-collapse:collapse;font-variant-numeric:tabular-nums">'
            f"<thead><tr>{cells('th', _HEADINGS)}</tr></thead><tbody>{rows}</tbody></table>"
            f'<small style="opacity:0.7">{html.escape(self._note())}</small></div>'
        )

    def _verdict(self) -> tuple[str, str]:
        """What to see at once, and the figures behind it."""
        if not self.rows:
            return "FAILED: nothing was compared.", ""
        worst, count = f"Worst: {describe(worst_first(self.rows)[0])}", len(self.rows)
        passed = sum(row.passed for row in self.rows)
        if not self.passed:
            return f"FAILED: {count - passed} of {count} comparisons.", worst
        return f"Passed: {count} of {count} comparisons.", f"{self.sentence} {worst}".strip()

    def _note(self) -> str:
        measures = {row.source is not None for row in self.rows if row.tolerance > EXACT}
        own = [_OWN] if True in measures else []
        if own and False in measures:
            reference = [f"Where there is no source's: {_REFERENCE.removeprefix('error: ')}"]
        else:
            reference = [_REFERENCE] if False in measures else []
        return " ".join([*own, *reference, *([_TOP1] if any(row.top1 is not None for row in self.rows) else [])])

    def _lines(self) -> Iterator[tuple[tuple[str, ...], bool]]:
        """Cells of each line, and whether what it shows passed; of many variables a summary and the worst."""
        for _, group in groupby(self.rows, key=lambda row: row.case):
            rows = list(group)
            if len(rows) <= _WORST:
                yield from ((_cells(row, f"{row.output} {row.variable}".strip()), row.passed) for row in rows)
                continue
            worst = replace(max(rows, key=lambda row: row.severity), passed=all(row.passed for row in rows), reason="")
            median = statistics.median(row.severity * row.tolerance for row in rows)
            label = f"{worst.output} ({len(rows)}, median {_short(median)})"
            yield _cells(worst, label, of_many=True), worst.passed
            yield from ((_cells(row, f"  {row.variable}"), row.passed) for row in worst_first(rows)[:_WORST])


def _cells(row: Row, label: str, of_many: bool = False) -> tuple[str, ...]:
    """of_many: for a summary, which has only what is comparable between variables."""
    return (
        label,
        row.input,
        str(row.batch or ""),
        "" if of_many else _short(row.max_abs),
        _short(row.figure),
        _short(row.source),
        "" if row.ratio is None else f"{row.ratio:.1f}",
        "" if of_many else _share(row.top1),
        "" if of_many else _share(row.top5),
        "none" if row.tolerance <= EXACT else _short(row.tolerance),
        ("pass" if row.passed else "FAIL") + (f": {row.reason}" if row.reason else ""),
    )


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


def _short(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _json_number(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
