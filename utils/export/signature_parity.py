"""Holds the signatures that take photographs against Pillow and against the model that they end in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from utils.export.image_signatures import signature_outputs
from utils.families.variants import Preprocessing
from utils.images.photographs import levels, sample_files
from utils.images.preprocessing import preprocess_bytes
from utils.parity import comparison
from utils.parity.judge import PREPROCESSING_TOLERANCE, Row
from utils.parity.report import Report


def compare_signatures(
    model: Any,
    function: Callable[[np.ndarray], np.ndarray],
    preprocessing: Preprocessing,
    normalised: Mapping[str, np.ndarray],
    output: str,
    tolerance: float,
) -> tuple[Report, list[Row]]:
    """What the graph makes of the sample photographs' files, in levels of 0 to 255; and rows of both signatures.

    normalised: the sample photographs that are taken, as Pillow prepares them, float32 [H, W, 3] by title. function:
    the model by itself. tolerance: between the two, which run the same model in batches of other sizes, and so round
    otherwise.
    ParityError where the pixels are not Pillow's.
    """
    files = {title: file for title, file in sample_files().items() if title in normalised}
    batch = preprocess_bytes(list(files.values()), preprocessing).numpy()
    pixels = comparison.compare_arrays(
        {title: levels(normalised[title], preprocessing) for title in files},
        dict(zip(files, levels(batch, preprocessing), strict=True)),
        output="preprocessing",
        tolerance=PREPROCESSING_TOLERANCE,
        input_name="levels of 255",
        batch=1,
    )
    report = Report(pixels)
    report.require()
    rows, expected = [], function(batch)
    for signature, found in signature_outputs(model, files, output).items():
        rows += comparison.compare_arrays(
            {"": expected},
            {"": found},
            output=f"{output}, {signature}",
            tolerance=tolerance,
            l2=True,
            input_name="photographs",
            batch=len(files),
        )
    return report, rows
