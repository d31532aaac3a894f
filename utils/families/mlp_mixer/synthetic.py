"""Random weights of an MLP-Mixer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from utils.families.mlp_mixer.layout import shapes
from utils.families.random_arrays import JITTER, around_one, stream
from utils.families.variants import MixerArchitecture

_SECOND_MOMENT = {"gelu": 0.4252, "gelu_tanh": 0.4252, "relu": 0.5}  # E[activation(z)^2] for z ~ N(0, 1)
_LOGITS_GAIN = 8.0  # pooling averages much away; this brings logits back to order 1 to 10
_BIAS = 0.1  # standard deviation of biases
_BRANCH_GAIN = 0.5  # branches add to the residual stream, depth after depth


def arrays(architecture: MixerArchitecture, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The flat Flax parameters, key by key; float32."""
    for key, shape in shapes(architecture).items():
        name, part = key.rsplit("/", 1)
        normal = stream(seed, key)
        if part == "scale":
            yield key, around_one(normal(shape))
        elif part == "bias":
            yield key, np.float32(JITTER if "norm" in name.lower() else _BIAS) * normal(shape)
        else:
            fan_in = int(np.prod(shape[:-1]))
            gain = 1.0
            if name == "head":
                gain = _LOGITS_GAIN
            elif name.endswith("Dense_1"):
                gain = _BRANCH_GAIN * _SECOND_MOMENT[architecture.activation] ** -0.5
            yield key, np.float32(gain * fan_in**-0.5) * normal(shape)
