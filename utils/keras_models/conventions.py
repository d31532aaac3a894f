"""What Keras calls and keeps otherwise than the sources: names of variables, order of axes, statistics of BatchNorm.

Imports no framework.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

MOMENTUM = 0.9  # BatchNorm's share of what was; PyTorch's 0.1 is the share of what is new

BACKENDS = ("tensorflow", "jax", "torch")  # as KERAS_BACKEND names them


@dataclass(frozen=True)
class Keys:
    """A family's checkpoint, as its Keras model has it.

    Layers have the checkpoint's names with a dash for each `separator`: a backend or another forbids slashes and dots.
    parts: the last part of a key by Keras's name of the variable. axes: by pattern of the key, the checkpoint's axes in
    Keras's order; those of other keys stay.
    """

    separator: str
    parts: Mapping[str, str]
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def key_of(self, path: str) -> str:
        """A variable's key by its path in Keras, such as `blocks-0-0-fn-2/gamma`."""
        layer, part = path.rsplit("/", 1)
        return f"{layer.replace('-', self.separator)}{self.separator}{self.parts.get(part, part)}"

    def arranged(self, key: str, array: np.ndarray) -> np.ndarray:
        """The checkpoint's array, or a gradient of it, in Keras's axis order; what has other axes is as it was."""
        axes = next((axes for pattern, axes in self.axes.items() if re.fullmatch(pattern, key)), None)
        return array if axes is None or array.ndim != len(axes) else array.transpose(axes)


KEYS = {
    "convmixer": Keys(
        ".",
        {
            "kernel": "weight",
            "gamma": "weight",
            "beta": "bias",
            "moving_mean": "running_mean",
            "moving_variance": "running_var",
        },
        {
            r"blocks\.\d+\.0\.fn\.0\.weight": (2, 3, 0, 1),  # depthwise [dim, 1, height, width]: height and width first
            r"(stem\.0|blocks\.\d+\.1)\.weight": (2, 3, 1, 0),  # [out, in, height, width]: in before out, too
            r"head\.weight": (1, 0),
        },
    ),
    "mixer": Keys("/", {"gamma": "scale", "beta": "bias"}),  # Flax and Keras have the same axes
}


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
