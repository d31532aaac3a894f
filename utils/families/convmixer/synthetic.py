"""Random weights of a ConvMixer.

A BatchNorm has to divide by about the right number, or the signal explodes or dies within 32
blocks. So the running statistics are worked out, layer by layer, as training would have found them: the mean
of every channel is followed through the network, the bias places each pre-activation at a chosen mean with a
variance of about 1, and Gauss-Hermite quadrature gives the activation's moments there. Those means are mostly
positive: where an activation is close to linear, small errors of the prediction do not grow from block to
block. Everything gets a jitter, because a BatchNorm left near its defaults would hide conversion errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np

from utils.families.base import COUNTER
from utils.families.random_arrays import JITTER, around_one, stream
from utils.families.variants import ConvMixerArchitecture

_SHIFT = 0.1  # standard deviation of a BatchNorm's bias and running mean: what they add is the same for every picture
_PRE_ACTIVATION = (1.5, 0.4)  # mean and standard deviation, over channels, of the mean pre-activation
_BATCH_NORM_POWER = 1.09  # variance of a jittered BatchNorm's output: (1 + j^2) * E[1 / (1 + j * normal)]
_LOGITS_GAIN = 10.0  # pooling averages much away; this brings logits back to order 1 to 10


def arrays(architecture: ConvMixerArchitecture, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The state dict, key by key in the canonical layout; float32, counters int64."""
    dim, kernel, patch = architecture.dim, architecture.kernel_size, architecture.patch_size
    channels = architecture.channels
    mean = np.zeros(channels)  # of every channel of the layer's input; normalised pictures have about none

    def layer(convolution: str, batch_norm: str, shape: tuple[int, ...], power: float) -> Iterator:
        nonlocal mean
        layer_arrays, mean = _convolution_and_batch_norm(
            seed, convolution, batch_norm, shape, power, mean, architecture.activation
        )
        yield from layer_arrays.items()

    yield from layer("stem.0", "stem.2", (dim, channels, patch, patch), 1.0)
    for block in range(architecture.depth):
        name, residual = f"blocks.{block}", mean
        yield from layer(f"{name}.0.fn.0", f"{name}.0.fn.2", (dim, 1, kernel, kernel), _BATCH_NORM_POWER)
        mean = mean + residual
        yield from layer(f"{name}.1", f"{name}.3", (dim, dim, 1, 1), 2 * _BATCH_NORM_POWER)
    gain = np.float32(_LOGITS_GAIN * dim**-0.5)
    weight = gain * stream(seed, "head.weight")((architecture.classes, dim))
    # What all pictures share is taken off the logits, so that the picture decides the class.
    shift = JITTER * stream(seed, "head.bias")((architecture.classes,))
    yield "head.weight", weight
    yield "head.bias", (shift - weight @ mean).astype(np.float32)


def _convolution_and_batch_norm(
    seed: int,
    convolution: str,
    batch_norm: str,
    shape: tuple[int, ...],
    power: float,
    mean: np.ndarray,
    activation: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Arrays of convolution and BatchNorm, for inputs of variance `power` and these channel means.

    Returns them by key, and the channel means after the BatchNorm.
    """
    channels = shape[:1]

    def normal(key: str, size: tuple[int, ...] = channels) -> np.ndarray:
        return stream(seed, key)(size)

    weight = np.float32((np.prod(shape[1:]) * power) ** -0.5) * normal(f"{convolution}.weight", shape)
    taps = weight.sum(axis=(2, 3))  # [channels out, channels in of the group]
    from_input = taps[:, 0] * mean if shape[1] == 1 else (taps * mean).sum(axis=1)
    center = _PRE_ACTIVATION[0] + _PRE_ACTIVATION[1] * normal(f"{convolution}.bias")
    expected, variance = _moments(activation, center)
    scale, shift = around_one(normal(f"{batch_norm}.weight")), _SHIFT * normal(f"{batch_norm}.bias")
    running_mean = expected + _SHIFT * normal(f"{batch_norm}.running_mean")
    running_var = variance * around_one(normal(f"{batch_norm}.running_var"))
    arrays = {
        f"{convolution}.weight": weight,
        f"{convolution}.bias": center - from_input,
        f"{batch_norm}.weight": scale,
        f"{batch_norm}.bias": shift,
        f"{batch_norm}.running_mean": running_mean,
        f"{batch_norm}.running_var": running_var,
    }
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    arrays[f"{batch_norm}.{COUNTER}"] = np.array(100_000, np.int64)
    return arrays, shift + scale * (expected - running_mean) / np.sqrt(running_var)


def _moments(activation: str, center: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the activation of z ~ N(center, 1); the two kinds of GELU have the same, but for 1e-3."""
    grid, means, variances = _moment_table(activation)
    return np.interp(center, grid, means), np.interp(center, grid, variances)


@functools.cache
def _moment_table(activation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Moments by Gauss-Hermite quadrature at centres within 8 standard deviations of their own mean."""
    middle, spread = _PRE_ACTIVATION
    grid = np.linspace(middle - 8 * spread, middle + 8 * spread, 241)
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    z = grid[:, None] + nodes
    half_erfc = np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)))
    values = np.maximum(z, 0) if activation == "relu" else z * half_erfc(z)
    weights = weights / weights.sum()
    means = values @ weights
    return grid, means, values**2 @ weights - means**2
