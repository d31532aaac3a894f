"""One comparison of one array, in figures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One comparison of one array.

    max_abs: largest absolute error. relative: the same over max(1, max |reference|). rmse: root of the mean
    squared error. relative_l2: |error| / |reference| in the L2 norm, where that is what the tolerance is held
    against. top1, top5: agreement between 0 and 1, or None where it has no meaning. variable: whose figure it
    is, if one of many. reason: what is wrong besides the numbers. Numbers are NaN where arrays could not be
    compared.
    """

    output: str
    input: str
    batch: int
    max_abs: float
    relative: float
    rmse: float
    top1: float | None
    top5: float | None
    tolerance: float
    passed: bool
    variable: str = ""
    relative_l2: float | None = None
    reason: str = ""

    @property
    def figure(self) -> float:
        """The error that the tolerance is held against."""
        return self.relative if self.relative_l2 is None else self.relative_l2

    @property
    def severity(self) -> float:
        """The error in tolerances; infinite where it is no number."""
        ratio = self.figure / self.tolerance
        return ratio if math.isfinite(ratio) else math.inf

    @property
    def case(self) -> tuple[str, str, int]:
        """What was compared, whichever the variable."""
        return self.output, self.input, self.batch


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Failed rows first, each kind by its error in tolerances."""
    return sorted(rows, key=lambda row: (row.passed, -row.severity))
