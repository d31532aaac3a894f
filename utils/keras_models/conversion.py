"""The `.keras` file of a conversion, whichever the family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.families import FAMILIES
from utils.families.variants import Variant
from utils.keras_models import saving


def write(
    path: Path,
    variant: Variant,
    weights: Mapping[str, np.ndarray],
    head: str,
    image_size: int,
    record: Mapping[str, Any],
) -> Path:
    """Builds the variant's model, fills it, and writes it with its record. image_size: 0 for any; of a Mixer, its own.

    Raises CheckpointError where the weights do not fit. OSErrors pass through.
    """
    model = FAMILIES[variant.family].models.keras_model(variant.architecture, weights, head, image_size)
    return saving.save(model, path, record)
