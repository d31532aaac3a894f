"""What Keras keeps otherwise than the sources: statistics of BatchNorm.

Imports no framework.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

MOMENTUM = 0.9  # BatchNorm's share of what was; PyTorch's 0.1 is the share of what is new

BACKENDS = ("tensorflow", "jax", "torch")  # as KERAS_BACKEND names them


def with_keras_variances(
    statistics: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], count: int, passes: int = 1
) -> dict[str, np.ndarray]:
    """What PyTorch's statistics after training passes would be, had it Keras's variance of a batch.

    Both normalise by the variance over n. PyTorch moves its `running_var` towards the one over n - 1, Keras towards the
    one over n, on every backend, and no setting of a layer changes that. So both keep 0.9 of what was, and of what
    PyTorch adds, Keras adds (n - 1) / n, with n = `count`, the number of values of a channel in the batch.

    before: the statistics before the passes, which all are of batches of one size. The dtype of each array stays.
    """
    found = dict(statistics)
    for key, moved in statistics.items():
        if key.endswith("running_var"):
            stayed = MOMENTUM**passes * before[key].astype(np.float64)
            found[key] = (stayed + (moved - stayed) * ((count - 1) / count)).astype(moved.dtype)
    return found
