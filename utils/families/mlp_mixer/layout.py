"""MLP-Mixer's checkpoints: keys and shapes, worked out from the architecture; NumPy alone.

Canonical keys are the flat Flax ones; Dense kernels are [in, out].
"""

from __future__ import annotations

from collections.abc import Collection

from utils.families.base import KerasNames, Keys, Shapes
from utils.families.variants import MixerArchitecture

MARKS = frozenset({"stem.proj.weight", "stem/kernel", "blocks.0.mlp_tokens.fc1.weight"})
KERAS_NAMES = KerasNames("/", {"gamma": "scale", "beta": "bias"})  # Flax and Keras have the same axes


def shapes(architecture: MixerArchitecture) -> Shapes:
    """Canonical keys with their shapes, in the order of the data."""
    hidden, tokens, patch = architecture.hidden_dim, architecture.tokens, architecture.patch_size
    found = _dense("stem", (patch, patch, architecture.channels, hidden))
    for block in range(architecture.blocks):
        name = f"MixerBlock_{block}"
        found |= _layer_norm(f"{name}/LayerNorm_0", hidden) | _layer_norm(f"{name}/LayerNorm_1", hidden)
        for mlp, width, inner in (
            ("token_mixing", tokens, architecture.tokens_mlp_dim),
            ("channel_mixing", hidden, architecture.channels_mlp_dim),
        ):
            found |= _dense(f"{name}/{mlp}/Dense_0", (width, inner))
            found |= _dense(f"{name}/{mlp}/Dense_1", (inner, width))
    return found | _layer_norm("pre_head_layer_norm", hidden) | _dense("head", (hidden, architecture.classes))


def keys_of(architecture: MixerArchitecture, names: Collection[str]) -> tuple[str, Keys]:
    """The layout of a file with these names, and its keys that are not canonical."""
    is_flax = any("/" in name for name in names)
    return ("flax", {}) if is_flax else ("timm_mixer", timm_keys(architecture))


def timm_keys(architecture: MixerArchitecture) -> Keys:
    """Flax key and axes by timm's key.

    timm's names: https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/mlp_mixer.py. A PyTorch
    Linear keeps its weight as [out, in], a convolution as [out, in, height, width].
    """
    names = {"stem": "stem.proj", "pre_head_layer_norm": "norm", "head": "head"}
    for block in range(architecture.blocks):
        flax, timm = f"MixerBlock_{block}", f"blocks.{block}"
        names |= {f"{flax}/LayerNorm_{i}": f"{timm}.norm{i + 1}" for i in (0, 1)}
        for mixing, mlp in (("token_mixing", "mlp_tokens"), ("channel_mixing", "mlp_channels")):
            names |= {f"{flax}/{mixing}/Dense_{i}": f"{timm}.{mlp}.fc{i + 1}" for i in (0, 1)}
    keys = {}
    for key, shape in shapes(architecture).items():
        module, part = key.rsplit("/", 1)
        axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(shape))
        keys[f"{names[module]}.{'bias' if part == 'bias' else 'weight'}"] = key, axes
    return keys


def _dense(name: str, kernel: tuple[int, ...]) -> Shapes:
    return {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}


def _layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}
