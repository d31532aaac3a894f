"""The judge: how much an export may err, and the verdict on what was measured.

The truth is the source model in float64. For each figure two errors are measured against it: the candidate's, and that
of the source framework's own float32. The candidate passes if it errs at most `RATIO` times as much as the source. So
no tolerance is tied to particular weights: a numerically sensitive model is held to what its own framework achieves, a
well-behaved one to rounding error. Where there is no such truth (copies, pixels, files derived from others) a fixed
tolerance is held against the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

# An export passes when it errs at most this many times as much as the source's own float32:
# `benchmarks.gate_margins` has the table of what honest exports and planted faults were measured to be.
RATIO = 10.0
# Half a rounding step of float32, relative: what storing a result costs whoever computed it. No source is taken to
# err by less, or one that is exact by chance would allow nothing.
ROUNDING = 2.0**-24
# Where the source's own float32 errs by more than this, its outputs are hardly its own, and a pass proves little.
DOUBTFUL = 1e-2
# What a maker's own code computed may differ by up to this from our reading of the checkpoint before that is called
# wrong: TF32 on a GPU, another epsilon and another GELU differ by 1e-4 to 1e-2.
UNPROVED = 1e-2
# Between two ways through one and the same exported model, |error| / |reference| in the L2 norm.
OUTPUT_TOLERANCE = 1e-5

# Pixels in levels of 0 to 255. Both sides round to whole levels after each of the resize's two passes, Pillow from
# fixed point and TensorFlow from float32: a value within rounding of a half may fall on either side, once a pass.
PREPROCESSING_TOLERANCE = 2 / 255

# Variables are copied, not computed: any difference is a fault, however small its effect on the outputs. (Not zero,
# because errors are counted in tolerances; a float32 that differs at all differs by more.)
EXACT = 1e-30


@dataclass(frozen=True)
class Row:
    """One comparison of one array, with a reference: the source model in float64 wherever there is one.

    max_abs: largest absolute error. relative: the same over max(1, max |reference|). rmse: root of the mean
    squared error. relative_l2: |error| / |reference| in the L2 norm, where that is what the tolerance is held
    against. top1, top5: agreement between 0 and 1, or None where it has no meaning. variable: whose figure it
    is, if one of many. reason: what is wrong besides the numbers. source: `relative_l2` of the source framework's own
    float32, from which the tolerance follows; None where the tolerance is a fixed one. Numbers are NaN where arrays
    could not be compared.
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
    source: float | None = None

    @property
    def ratio(self) -> float | None:
        """How many times as much as the source framework's own float32 this errs; None without such a measure."""
        return None if self.source is None else self.figure / max(self.source, ROUNDING)

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


def rounded_up(value: float, digits: int) -> float:
    """To this many significant digits: what is written into a file should not change with the last ones."""
    if not math.isfinite(value) or value <= 0:
        return value
    places = digits - 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(round(value * 10.0**places, 6)) / 10.0**places:.{digits}g}")


def worst_first(rows: Iterable[Row]) -> list[Row]:
    """Failed rows first, each kind by its error in tolerances."""
    return sorted(rows, key=lambda row: (row.passed, -row.severity))


def judged(row: Row, source: float, least: float = 0.0) -> Row:
    """The row, judged by what the source's own float32 errs; `least` is allowed whatever that is."""
    tolerance = max(RATIO * max(source, ROUNDING), least)
    row = replace(row, source=source, tolerance=tolerance, passed=row.figure <= tolerance and row.top1 in (None, 1.0))
    if doubtful(row) and not row.reason:
        return replace(row, reason=f"the source's own float32 errs by {source:.0e}, so this proves little")
    return row


def doubtful(row: Row) -> bool:
    """Whether the source's own float32 errs so much that a pass proves little."""
    return row.source is not None and not row.source <= DOUBTFUL


def verdict(row: Row) -> str:
    """What a maker's answers, judged as an export's, say of our reading of the checkpoint."""
    if row.passed:
        return "proved"
    # "Above" would let NaN pass.
    return "not proved" if row.figure <= max(UNPROVED, row.tolerance) else "wrong"


def summed(rows: Sequence[Row], terms: int) -> list[Row]:
    """Judges gradients, each a sum of so many `terms`, again by what all of them show together.

    Adding n numbers one by one can be off by n half rounding steps, so at least that is allowed. Each array's source
    error is floored at the median over arrays, because a ReLU makes single arrays exact by chance.
    """
    known = [row.source for row in rows if row.source is not None]
    if not known:
        return list(rows)
    half, least = median(known), terms * ROUNDING
    return [row if row.source is None else judged(row, max(row.source, half), least) for row in rows]
