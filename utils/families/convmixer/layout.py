"""ConvMixer's checkpoints: keys and shapes, worked out from the architecture; NumPy alone.

Canonical keys are those of the timm release, in PyTorch's axis order.
"""

from __future__ import annotations

from collections.abc import Collection

from utils.families.base import COUNTER, KerasNames, Keys, Shapes
from utils.families.variants import ConvMixerArchitecture

MARKS = frozenset({"stem.0.weight", "0.weight", "blocks.0.0.fn.0.weight"})
KERAS_NAMES = KerasNames(
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
)


def shapes(architecture: ConvMixerArchitecture) -> Shapes:
    """Canonical keys with their shapes, in the order of the data."""
    dim, kernel, patch = architecture.dim, architecture.kernel_size, architecture.patch_size
    found = _layer("stem.0", (dim, architecture.channels, patch, patch)) | _batch_norm("stem.2", dim)
    for block in range(architecture.depth):
        name = f"blocks.{block}"
        found |= _layer(f"{name}.0.fn.0", (dim, 1, kernel, kernel)) | _batch_norm(f"{name}.0.fn.2", dim)
        found |= _layer(f"{name}.1", (dim, dim, 1, 1)) | _batch_norm(f"{name}.3", dim)
    return found | _layer("head", (architecture.classes, dim))


def keys_of(architecture: ConvMixerArchitecture, names: Collection[str]) -> tuple[str, Keys]:
    """The layout of a file with these names, and its keys that are not canonical."""
    if "0.weight" not in names:
        return "timm", {}
    return "sequential", {key: (canonical, None) for key, canonical in sequential_keys(architecture).items()}


def sequential_keys(architecture: ConvMixerArchitecture) -> dict[str, str]:
    """Canonical key by v1.0 key, an index into one nn.Sequential: stem, blocks, pooling, flattening, head."""
    keys = {}
    for canonical in shapes(architecture):
        first, rest = canonical.split(".", 1)
        if first == "stem":
            keys[rest] = canonical
        elif first == "blocks":
            block, rest = rest.split(".", 1)
            keys[f"{3 + int(block)}.{rest}"] = canonical
        else:
            keys[f"{3 + architecture.depth + 2}.{rest}"] = canonical
    return keys


def _layer(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _batch_norm(name: str, dim: int) -> Shapes:
    vectors = {f"{name}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.{COUNTER}": ()}
