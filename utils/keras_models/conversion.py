"""The `.keras` file of a conversion, whichever the family."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.families.convmixer import keras_model as convmixer
from utils.families.mlp_mixer import keras_model as mlp_mixer
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
    if variant.family == "convmixer":
        model = convmixer.build(variant.architecture, weights, head, image_size)
    else:
        model = mlp_mixer.build(variant.architecture, weights, head)
    return saving.save(model, path, record)
