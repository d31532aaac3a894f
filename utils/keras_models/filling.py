"""Fills a Keras model with a checkpoint's arrays: each key goes to one variable, and each variable gets one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from utils.errors import CheckpointError
from utils.families.base import KerasNames

if TYPE_CHECKING:
    import keras


def fill(
    model: keras.Model, arrays: Mapping[str, np.ndarray], keys: KerasNames, unused: Collection[str] = ()
) -> keras.Model:
    """Assigns every variable of `model` the array of its key, turned into Keras's axis order; returns the model.

    unused: keys that this model has no use for, each by name. CheckpointError names what is missing, left over, of
    another shape or another dtype; then nothing was assigned.
    """
    wanted = {keys.key_of(variable.path): variable for variable in model.variables}
    found = {key: keys.to_export_layout(key, array) for key, array in arrays.items() if key in wanted}
    problems = [f"missing {key}" for key in wanted if key not in arrays]
    problems += [f"unexpected {key}" for key in arrays if key not in wanted and key not in unused]
    problems += [
        f"{key}: expected float32 {list(wanted[key].shape)}, found {array.dtype} {list(array.shape)}"
        for key, array in found.items()
        if (array.shape, array.dtype) != (tuple(wanted[key].shape), np.float32)
    ]
    if len(wanted) != len(model.variables):
        problems.append("two variables have one and the same key")
    if problems:
        raise CheckpointError(
            f"these arrays do not fit the Keras model {model.name!r}: {'; '.join(problems)}. Choose the variant and "
            "the head that they are of."
        )
    for key, array in found.items():
        wanted[key].assign(array)
    return model
