"""Random arrays for synthetic weights: each drawn from its own stream, fixed by the seed and the key."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

JITTER = 0.2  # standard deviation of scales and variances about their value, and of a LayerNorm's bias


def stream(seed: int, key: str) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Standard normal float32 arrays from a generator of the key's own: no key depends on the others."""
    generator = np.random.Generator(np.random.PCG64([seed, zlib.crc32(key.encode())]))
    return lambda shape: np.asarray(generator.standard_normal(shape, dtype=np.float32))


def around_one(normal: np.ndarray) -> np.ndarray:
    """Scales or variances about 1."""
    # Clipped at two standard deviations: a scale or variance near zero, or below, would not be plausible.
    return 1 + np.float32(JITTER) * np.clip(normal, -2, 2)
