"""Compares an exported model with its source, output by output and gradient by gradient.

Knows callables and arrays only: which frameworks computed them, and on which files, is the caller's business.

The verdict is `judge`'s. A comparison must hold to pass: NaN, Inf, a wrong shape or dtype, a missing
variable and an empty comparison are failures, never skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from utils.parity.judge import OUTPUT_TOLERANCE, RATIO, ROUNDING, Row, doubtful, judged, summed as judge_summed

_TINY = 1e-30  # in place of the norm of a truth that is zero

Model = Callable[[np.ndarray], np.ndarray]


def compare_outputs(
    reference: Model,
    candidate: Model,
    inputs: Mapping[str, np.ndarray],
    output: str,
    tolerance: float = OUTPUT_TOLERANCE,
    source: Model | None = None,
) -> list[Row]:
    """Runs the models, NHWC float32 -> [B, units], on each of `inputs`, and judges the candidate's errors.

    Args:
        reference: the truth in float64 where `source` is given, else what the candidate must equal.
        candidate: the model to be judged.
        inputs: float32 [B, H, W, C] by name.
        output: "logits" or "features"; agreement of top-1 and top-5 is counted for logits. Top-1 must be equal for each
            image whose two best classes the reference tells apart by more than the tolerance allows.
        tolerance: of |error| / |reference| in the L2 norm, where there is no `source`.
        source: the reference's model in float32, which sets the tolerance. One that errs by more than `judge.DOUBTFUL`
            fails: such outputs are of no use to anybody, and passing beside them would prove nothing.

    Returns:
        A row per input.
    """
    rows = []
    for name, batch in inputs.items():
        # Copies: a model that changes its input in place must not change what the other one sees. The candidate first:
        # the reference may be a thread's that is not done yet.
        found, expected = np.asarray(candidate(batch.copy())), np.asarray(reference(batch.copy()))
        own = None if source is None else [np.asarray(source(batch.copy()))]
        row = _row(expected, found, output, name, len(batch), tolerance, l2=True, sources=own)
        rows.append(replace(row, passed=row.passed and not doubtful(row)))
    return rows or [_failed(output, "", 0, tolerance, "there is no input to compare on")]


def compare_arrays(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    *,
    output: str,
    tolerance: float = float("nan"),
    sources: Sequence[Mapping[str, np.ndarray]] | None = None,
    input_name: str = "",
    batch: int = 0,
    l2: bool = False,
    summed: int = 0,
) -> list[Row]:
    """Compares what a model gives besides its outputs, by name.

    Args:
        reference: the truth in float64 where `sources` are given, else what the candidate must equal.
        candidate: the arrays to be judged, float32; None counts as missing.
        output: what they are, such as "gradients".
        tolerance: where there are no `sources`.
        sources: float32 runs of the source, of which the worst by array sets the tolerance. One that errs by more than
            `judge.DOUBTFUL` is named in the row's reason and does not fail: these figures say how the model trains, and
            its outputs are proved by rows of their own.
        input_name: the input that all of it was computed for.
        batch: the number of images in it.
        l2: hold `tolerance` against |error| / |reference| in the L2 norm, which suits arrays of any scale, instead of
            max |error| / max(1, max |reference|).
        summed: for gradients: how many terms each is a sum of, batch times positions; see `judge.summed`.

    Returns:
        A row per array.
    """
    rows = []
    sides = {"reference": reference, "candidate": candidate}
    sides |= {f"source's run {index}": run for index, run in enumerate(sources or (), 1)}
    for name in [*reference, *(name for name in candidate if name not in reference)]:
        # Each once: they may be on disk.
        expected, found, *own = there = [arrays.get(name) for arrays in sides.values()]
        if absent := [side for side, array in zip(sides, there, strict=True) if array is None]:
            reason = f"the {' and the '.join(absent)} has no such variable"
            rows.append(_failed(output, input_name, batch, tolerance, reason, variable=name))
        else:
            arrays = np.asarray(expected), np.asarray(found)
            own = None if sources is None else [np.asarray(array) for array in own]
            rows.append(_row(*arrays, output, input_name, batch, tolerance, variable=name, l2=l2, sources=own))
    if summed:
        rows = judge_summed(rows, summed)
    return rows or [_failed(output, input_name, batch, tolerance, "there is no variable to compare")]


def _row(
    reference: np.ndarray,
    candidate: np.ndarray,
    output: str,
    input_name: str,
    batch: int,
    tolerance: float,
    variable: str = "",
    l2: bool = False,
    sources: Sequence[np.ndarray] | None = None,
) -> Row:
    reason = _fault(reference, candidate) or _source_fault(reference, sources)
    if reason:
        return _failed(output, input_name, batch, tolerance, reason, variable)
    # One array of float64 at a time: the largest has 22 million numbers.
    expected = reference.astype(np.float64, copy=False)
    own, largest = None, _largest(expected)
    scale, margin = max(1.0, largest), tolerance * max(1.0, largest)
    if sources is not None:
        errors = [_error(source, expected) for source in sources]
        own = max(relative_l2 for _, _, relative_l2 in errors)
        # Either of the two best classes may move by what is allowed: in the largest error, as one class is one value.
        margin = 2 * RATIO * max(ROUNDING * largest, *(most for most, _, _ in errors))
    max_abs, rmse, error_l2 = _error(candidate, expected)
    relative_l2 = error_l2 if l2 or sources is not None else None
    top1 = top5 = None
    if output.startswith("logits"):
        top1, top5 = _agreement(expected, candidate.astype(np.float64), margin)
    figure = max_abs / scale if relative_l2 is None else relative_l2
    row = Row(
        output=output,
        input=input_name,
        batch=batch,
        max_abs=max_abs,
        relative=max_abs / scale,
        rmse=rmse,
        top1=top1,
        top5=top5,
        tolerance=tolerance,
        # "Not above" would let NaN pass.
        passed=bool(figure <= tolerance) and (top1 is None or top1 == 1.0),
        variable=variable,
        relative_l2=relative_l2,
        reason="" if top1 in (None, 1.0) else "top-1 differs where the reference is sure",
    )
    return row if own is None else judged(row, own)


def _failed(output: str, input_name: str, batch: int, tolerance: float, reason: str, variable: str = "") -> Row:
    nan = float("nan")
    figures = (nan, nan, nan, None, None, tolerance, False)
    return Row(output, input_name, batch, *figures, variable=variable, reason=reason)


def _fault(reference: np.ndarray, candidate: np.ndarray) -> str:
    """Why the two cannot be compared by numbers, or nothing."""
    if reference.size == 0:
        return "the reference is empty"
    if not np.isfinite(reference).all():
        return "the reference itself holds NaN or Inf"
    if candidate.shape != reference.shape:
        return f"shape {list(candidate.shape)}, expected {list(reference.shape)}"
    if candidate.dtype != np.float32:
        return f"dtype {candidate.dtype}, expected float32"
    if not np.isfinite(candidate).all():
        return f"{np.count_nonzero(~np.isfinite(candidate)):,} of {candidate.size:,} values are NaN or Inf"
    return ""


def _source_fault(reference: np.ndarray, sources: Sequence[np.ndarray] | None) -> str:
    """Why the source's float32 cannot be measured against this truth, or nothing."""
    if sources is None:
        return ""
    if reference.dtype != np.float64:
        return f"the truth is {reference.dtype}, expected float64"
    if not sources or any(s.dtype != np.float32 or s.shape != reference.shape for s in sources):
        return "the source's own run is not float32 of the truth's shape"
    if not all(np.isfinite(source).all() for source in sources):
        return "the source's own float32 holds NaN or Inf"
    return ""


def _error(found: np.ndarray, expected: np.ndarray) -> tuple[float, float, float]:
    """The largest absolute error, the root of the mean squared one, and |error| / |expected| in the L2 norm.

    Where what is expected is zero, the last is zero, or a figure that only another such one comes near.
    """
    error = np.subtract(found, expected, dtype=np.float64)
    norm = float(np.linalg.norm(error))
    return _largest(error), norm / math.sqrt(error.size), norm / max(float(np.linalg.norm(expected)), _TINY)


def _largest(array: np.ndarray) -> float:
    """The largest absolute value, without a second array of them."""
    return max(float(array.max()), -float(array.min()))


def _agreement(reference: np.ndarray, candidate: np.ndarray, margin: float) -> tuple[float | None, float]:
    """Share of images with the same best class, of those with a margin, if any; overlap of the best five."""
    count = min(5, reference.shape[-1])
    best = np.argsort(-reference, axis=-1, kind="stable")
    found = np.argsort(-candidate, axis=-1, kind="stable")
    ordered = np.take_along_axis(reference, best, axis=-1)
    sure = ordered[:, 0] - ordered[:, 1] > margin if count > 1 else np.zeros(len(reference), dtype=bool)
    top1 = float((best[:, 0] == found[:, 0])[sure].mean()) if sure.any() else None
    overlap = [len(np.intersect1d(a, b)) / count for a, b in zip(best[:, :count], found[:, :count], strict=True)]
    return top1, float(np.mean(overlap))
