"""Random checkpoints in the official formats and sizes: to try a conversion out without the official file.

Every array is drawn from its own stream, fixed by the seed and the key: the same seed gives the same file.

ConvMixer: a BatchNorm has to divide by about the right number, or the signal explodes or dies within 32
blocks. So the running statistics are worked out, layer by layer, as training would have found them: the mean
of every channel is followed through the network, the bias places each pre-activation at a chosen mean with a
variance of about 1, and Gauss-Hermite quadrature gives the activation's moments there. Those means are mostly
positive: where an activation is close to linear, small errors of the prediction do not grow from block to
block. Everything gets a jitter, because a BatchNorm left near its defaults would hide conversion errors.
"""

from __future__ import annotations

import functools
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.checkpoints.layouts import COUNTER, expected_shapes
from utils.errors import CheckpointError
from utils.families.variants import Variant
from utils.files import written_whole

# Raise it when the drawn numbers change, so that no older cached file is mistaken for a new one.
FORMAT_VERSION = 2

_JITTER = 0.2  # standard deviation of scales and variances about their value, and of a LayerNorm's bias
_SHIFT = 0.1  # the same of a BatchNorm's bias and running mean: what they add is the same for every picture
_PRE_ACTIVATION = (1.5, 0.4)  # mean and standard deviation, over channels, of the mean pre-activation
_BATCH_NORM_POWER = 1.09  # variance of a jittered BatchNorm's output: (1 + j^2) * E[1 / (1 + j * normal)]
_GELU_SECOND_MOMENT = 0.4252  # E[gelu(z)^2] for z ~ N(0, 1)
# Pooling averages much away; this brings logits back to order 1 to 10.
_LOGITS_GAIN = {"convmixer": 10.0, "mixer": 8.0}
_BIAS = 0.1  # standard deviation of a Mixer's biases
_BRANCH_GAIN = 0.5  # a Mixer's branches add to the residual stream, depth after depth


def write(variant: Variant, path: str | os.PathLike, seed: int) -> None:
    """Writes a ConvMixer's .pth.tar in the "timm" layout, wrapped as timm's trainer does, or a Mixer's .npz.

    Whole or not at all; CheckpointError where that is not possible.
    """
    try:
        with written_whole(Path(path)) as file:
            (_write_torch if variant.family == "convmixer" else _write_npz)(file, variant, seed)
    except (OSError, RuntimeError) as error:  # torch.save wraps a failing write in a RuntimeError
        raise CheckpointError(f"{path}: the synthetic checkpoint cannot be written: {error}.") from error


def _write_torch(file: BinaryIO, variant: Variant, seed: int) -> None:
    import torch

    tensors = {key: torch.from_numpy(array) for key, array in convmixer_arrays(variant, seed)}
    # Saving to an open file, not to a path, keeps the file's name out of the archive's bytes.
    torch.save({"state_dict": tensors, "epoch": 0, "arch": variant.name}, file)


def _write_npz(file: BinaryIO, variant: Variant, seed: int) -> None:
    """Uncompressed, flat Flax keys, one array in memory at a time."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key, array in mixer_arrays(variant, seed):
            # ZipFile.open with a name alone dates the member 1980: the bytes do not depend on the clock.
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def convmixer_arrays(variant: Variant, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The state dict, key by key in the canonical layout; float32, counters int64."""
    architecture = variant.architecture
    dim, kernel, patch = architecture.dim, architecture.kernel_size, architecture.patch_size
    mean = np.zeros(3)  # of every channel of the layer's input; normalised pictures have about none

    def layer(convolution: str, batch_norm: str, shape: tuple[int, ...], power: float) -> Iterator:
        nonlocal mean
        arrays, mean = _convolution_and_batch_norm(
            seed, convolution, batch_norm, shape, power, mean, architecture.activation
        )
        yield from arrays.items()

    yield from layer("stem.0", "stem.2", (dim, 3, patch, patch), 1.0)
    for block in range(architecture.depth):
        name, residual = f"blocks.{block}", mean
        yield from layer(f"{name}.0.fn.0", f"{name}.0.fn.2", (dim, 1, kernel, kernel), _BATCH_NORM_POWER)
        mean = mean + residual
        yield from layer(f"{name}.1", f"{name}.3", (dim, dim, 1, 1), 2 * _BATCH_NORM_POWER)
    gain = np.float32(_LOGITS_GAIN["convmixer"] * dim**-0.5)
    weight = gain * _stream(seed, "head.weight")((architecture.classes, dim))
    # What all pictures share is taken off the logits, so that the picture decides the class.
    shift = _JITTER * _stream(seed, "head.bias")((architecture.classes,))
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
        return _stream(seed, key)(size)

    weight = np.float32((np.prod(shape[1:]) * power) ** -0.5) * normal(f"{convolution}.weight", shape)
    taps = weight.sum(axis=(2, 3))  # [channels out, channels in of the group]
    from_input = taps[:, 0] * mean if shape[1] == 1 else (taps * mean).sum(axis=1)
    center = _PRE_ACTIVATION[0] + _PRE_ACTIVATION[1] * normal(f"{convolution}.bias")
    expected, variance = _moments(activation, center)
    scale, shift = _around_one(normal(f"{batch_norm}.weight")), _SHIFT * normal(f"{batch_norm}.bias")
    running_mean = expected + _SHIFT * normal(f"{batch_norm}.running_mean")
    running_var = variance * _around_one(normal(f"{batch_norm}.running_var"))
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
    """Mean and variance of the activation of z ~ N(center, 1)."""
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


def mixer_arrays(variant: Variant, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The flat Flax parameters, key by key; float32."""
    for key, shape in expected_shapes(variant).items():
        name, part = key.rsplit("/", 1)
        normal = _stream(seed, key)
        if part == "scale":
            yield key, _around_one(normal(shape))
        elif part == "bias":
            yield key, np.float32(_JITTER if "norm" in name.lower() else _BIAS) * normal(shape)
        else:
            fan_in = int(np.prod(shape[:-1]))
            gain = 1.0
            if name == "head":
                gain = _LOGITS_GAIN["mixer"]
            elif name.endswith("Dense_1"):
                gain = _BRANCH_GAIN * _GELU_SECOND_MOMENT**-0.5
            yield key, np.float32(gain * fan_in**-0.5) * normal(shape)


def _stream(seed: int, key: str) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Standard normal float32 arrays from a generator of the key's own: no key depends on the others."""
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    return lambda shape: np.asarray(generator.standard_normal(shape, dtype=np.float32))


def _around_one(normal: np.ndarray) -> np.ndarray:
    # Clipped at two standard deviations: a scale or variance near zero, or below, would not be plausible.
    return 1 + np.float32(_JITTER) * np.clip(normal, -2, 2)
