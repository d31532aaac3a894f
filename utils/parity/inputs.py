"""The inputs on which a model and its export are compared, each there to show a kind of fault."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utils.errors import ParameterError


def standard_inputs(
    height: int, width: int, seed: int, photographs: Mapping[str, np.ndarray] | None = None, channels: int = 3
) -> dict[str, np.ndarray]:
    """Inputs that show faults. Few: each goes through the source in float64 too, and more showed no other fault.

    Args:
        height: of the images, in pixels; at least 8.
        width: of the images, in pixels; at least 8.
        seed: of the noise.
        photographs: finite float32 [height, width, channels], normalised as the model expects, by name.
        channels: of the images.

    Returns:
        float32 [B, height, width, channels] by name: one batch of all photographs, in their order, and others of 1.

    Raises:
        ParameterError: for another size, and for a photograph of another shape or dtype, or not finite.
    """
    if min(height, width) < 8:
        raise ParameterError(f"inputs of {height} x {width} pixels: expected at least 8 x 8.")
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((1, height, width, channels), dtype=np.float32)
    # Normalised photographs stay below 2.7; 20 standard deviations of noise reach 90. That is deep in both
    # arms of GELU and ReLU, where a clipped, approximate or half-precision operation shows, and still far
    # from overflow.
    large = 20 * rng.standard_normal((1, height, width, channels), dtype=np.float32)
    inputs = {"noise": noise, "ramp and block": _ramp_and_block(height, width, channels), "large": large}
    if photographs:
        for name, photograph in photographs.items():
            _check_photograph(name, photograph, (height, width, channels))
        inputs["photographs"] = np.stack(list(photographs.values()))
    return inputs


def jittered(inputs: np.ndarray) -> np.ndarray:
    """The same inputs, each up or down by 2 ** -17 of itself: 64 rounding steps or more.

    For gradients. A ReLU unit within rounding of zero falls on either side, and a single one moves the gradients by
    a thousand times what rounding does; few or none do so in one run. In this one some do.
    """
    signs = np.random.default_rng(0).choice(np.array([-1, 1], np.float32), inputs.shape)
    return inputs * (1 + signs * np.float32(2.0**-17))


def _ramp_and_block(height: int, width: int, channels: int) -> np.ndarray:
    """An image that any flip or turn moves: it grows downwards and falls to the right a third as fast.

    Above and right of the middle lies a flat block, wider than high.
    """
    down, right = np.linspace(-2, 2, height)[:, None], np.linspace(-2, 2, width)[None, :]
    # They differ, so that channels exchanged shows too: sines of whole numbers are never the same.
    slopes = np.array([1.0, -0.5, 0.25, *np.sin(np.arange(3, channels))])[:channels]
    image = (0.75 * down - 0.25 * right)[None, ..., None] * slopes
    flat = np.array([2.0, 1.0, -0.5, *np.cos(np.arange(3, channels))])[:channels]
    image[:, height // 8 : height // 4 + 1, width // 2 : width - width // 8] = flat
    return image.astype(np.float32)


def _check_photograph(name: str, photograph: np.ndarray, shape: tuple[int, int, int]) -> None:
    if photograph.shape != shape or photograph.dtype != np.float32 or not np.isfinite(photograph).all():
        raise ParameterError(
            f"photograph {name!r}: expected finite float32 values of shape {shape}, found {photograph.dtype} "
            f"of shape {photograph.shape}. Preprocess it for this model first."
        )
