"""Compares an exported model with its source, output by output and gradient by gradient.

Knows callables and arrays only: which frameworks computed them, and on which files, is the caller's business.
Every comparison is in float64 and written so that it must hold to pass: NaN, Inf, a wrong shape or dtype, a
missing variable and an empty comparison are failures, never skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from utils.parity_inputs import standard_inputs
from utils.parity_report import Report
from utils.parity_row import Row

__all__ = [
    "EXACT",
    "GRADIENT_TOLERANCE",
    "OUTPUT_TOLERANCE",
    "PREPROCESSING_TOLERANCE",
    "STATISTICS_TOLERANCE",
    "TRAINING_TOLERANCE",
    "Report",
    "Row",
    "compare_arrays",
    "compare_gradients",
    "compare_outputs",
    "standard_inputs",
]

# Relative to max(1, max |reference|). Float32 rounding alone (6e-8 a step) moves the logits of these models
# by 1e-6 to 3e-6, measured against float64 at depth 32. One weight of a kernel off by 1 %, or another
# epsilon, moves them by more than 1e-5.
OUTPUT_TOLERANCE = 1e-5
# Relative L2 by variable: a gradient sums over every position of every image, there and back. Rounding alone
# moves one by 2e-6 to 7e-6 (PyTorch's float32 against float64, depth 32). With ReLU that holds on small
# inputs only: among the tens of millions of units of a full image some lie within rounding of zero, fall on
# either side in two correct implementations, and each of those moves gradients by about 1e-3 (56 pixels:
# 3e-6; 112 pixels: 2e-3).
GRADIENT_TOLERANCE = 1e-4
# Training mode. Outputs: each BatchNorm divides by statistics of what the layer before it rounded. Updated
# statistics: rounding alone moves them by 3e-7; the usual mistake, variance over n - 1 for n with momentum
# 0.1, by 0.1 / n.
TRAINING_TOLERANCE = 1e-4
STATISTICS_TOLERANCE = 1e-5

# Pixels in levels of 0 to 255. Both sides round to whole levels after each of the resize's two passes, Pillow from
# fixed point and TensorFlow from float32: a value within rounding of a half may fall on either side, once a pass.
PREPROCESSING_TOLERANCE = 2 / 255

# Variables are copied, not computed: any difference is a fault, however small its effect on the outputs. (Not zero,
# because errors are counted in tolerances; a float32 that differs at all differs by more.)
EXACT = 1e-30

Model = Callable[[np.ndarray], np.ndarray]


def compare_outputs(
    reference: Model,
    candidate: Model,
    inputs: Mapping[str, np.ndarray],
    output: str,
    tolerance: float = OUTPUT_TOLERANCE,
) -> list[Row]:
    """Runs both models, NHWC float32 -> float32 [B, units], on each of `inputs`: one row per input.

    output: "logits" or "features"; agreement of top-1 and top-5 is counted for logits. Top-1 must be equal
    for each image whose two best classes the reference tells apart by more than the tolerance.
    """
    rows = []
    for name, batch in inputs.items():
        # Copies: a model that changes its input in place must not change what the other one sees.
        expected, found = np.asarray(reference(batch.copy())), np.asarray(candidate(batch.copy()))
        rows.append(_row(expected, found, output, name, len(batch), tolerance))
    return rows or [_failed(output, "", 0, tolerance, "there is no input to compare on")]


def compare_gradients(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    input_name: str,
    batch: int,
    tolerance: float = GRADIENT_TOLERANCE,
) -> list[Row]:
    """Compares gradients by variable name, by relative L2 error; a name that one side lacks fails."""
    return compare_arrays(
        reference,
        candidate,
        output="gradients",
        tolerance=tolerance,
        input_name=input_name,
        batch=batch,
        l2=True,
    )


def compare_arrays(
    reference: Mapping[str, np.ndarray],
    candidate: Mapping[str, np.ndarray],
    *,
    output: str,
    tolerance: float,
    input_name: str = "",
    batch: int = 0,
    l2: bool = False,
) -> list[Row]:
    """Compares arrays by name, a row each: what a model gives besides its outputs. None counts as missing.

    l2: hold the tolerance against |error| / |reference| in the L2 norm, which suits arrays of any scale,
    instead of max |error| / max(1, max |reference|).
    """
    rows, sides = [], {"reference": reference, "candidate": candidate}
    for name in [*reference, *(name for name in candidate if name not in reference)]:
        absent = [side for side, arrays in sides.items() if arrays.get(name) is None]
        if absent:
            reason = f"the {' and the '.join(absent)} has no such variable"
            rows.append(_failed(output, input_name, batch, tolerance, reason, variable=name))
        else:
            arrays = np.asarray(reference[name]), np.asarray(candidate[name])
            rows.append(_row(*arrays, output, input_name, batch, tolerance, variable=name, l2=l2))
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
) -> Row:
    reason = _fault(reference, candidate)
    if reason:
        return _failed(output, input_name, batch, tolerance, reason, variable)
    expected, found = reference.astype(np.float64), candidate.astype(np.float64)
    error = found - expected
    scale = max(1.0, float(np.abs(expected).max()))
    max_abs = float(np.abs(error).max())
    relative_l2 = _relative_l2(error, expected) if l2 else None
    top1 = top5 = None
    if output.startswith("logits"):
        top1, top5 = _agreement(expected, found, margin=tolerance * scale)
    figure = max_abs / scale if relative_l2 is None else relative_l2
    return Row(
        output=output,
        input=input_name,
        batch=batch,
        max_abs=max_abs,
        relative=max_abs / scale,
        rmse=float(np.sqrt(np.mean(error**2))),
        top1=top1,
        top5=top5,
        tolerance=tolerance,
        # "Not above" would let NaN pass.
        passed=bool(figure <= tolerance) and (top1 is None or top1 == 1.0),
        variable=variable,
        relative_l2=relative_l2,
        reason="" if top1 in (None, 1.0) else "top-1 differs where the reference is sure",
    )


def _failed(output: str, input_name: str, batch: int, tolerance: float, reason: str, variable: str = "") -> Row:
    nan = float("nan")
    return Row(
        output,
        input_name,
        batch,
        nan,
        nan,
        nan,
        None,
        None,
        tolerance,
        False,
        variable=variable,
        reason=reason,
    )


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


def _relative_l2(error: np.ndarray, reference: np.ndarray) -> float:
    norm, reference_norm = float(np.linalg.norm(error)), float(np.linalg.norm(reference))
    if reference_norm == 0:  # a variable without influence: then there must be none at all
        return 0.0 if norm == 0 else float("inf")
    return norm / reference_norm


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
