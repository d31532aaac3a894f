"""Keys and shapes of the official checkpoints, worked out from a variant's architecture.

ConvMixer keys are those of the timm release, in PyTorch's axis order; Mixer keys are the flat Flax ones.
"""

from __future__ import annotations

from utils.families import FAMILIES
from utils.families.variants import ConvMixerArchitecture, MixerArchitecture, Variant

Shapes = dict[str, tuple[int, ...]]

HEAD_KEYS = {name: family.head_keys for name, family in FAMILIES.items()}
COUNTER = "num_batches_tracked"  # the one integer of a BatchNorm: a scalar int64


def expected_shapes(variant: Variant) -> Shapes:
    """Every key of the variant's checkpoint, canonical layout, with its shape."""
    if isinstance(variant.architecture, ConvMixerArchitecture):
        return convmixer_shapes(variant.architecture)
    return mixer_shapes(variant.architecture)


def convmixer_shapes(architecture: ConvMixerArchitecture) -> Shapes:
    """Canonical keys (the timm release's) with their shapes, in the order of the data."""
    dim, kernel, patch = architecture.dim, architecture.kernel_size, architecture.patch_size
    shapes = _layer("stem.0", (dim, 3, patch, patch)) | _batch_norm("stem.2", dim)
    for block in range(architecture.depth):
        name = f"blocks.{block}"
        shapes |= _layer(f"{name}.0.fn.0", (dim, 1, kernel, kernel)) | _batch_norm(f"{name}.0.fn.2", dim)
        shapes |= _layer(f"{name}.1", (dim, dim, 1, 1)) | _batch_norm(f"{name}.3", dim)
    return shapes | _layer("head", (architecture.classes, dim))


def sequential_keys(architecture: ConvMixerArchitecture) -> dict[str, str]:
    """Canonical key by v1.0 key, an index into one nn.Sequential: stem, blocks, pooling, flattening, head."""
    keys = {}
    for canonical in convmixer_shapes(architecture):
        first, rest = canonical.split(".", 1)
        if first == "stem":
            keys[rest] = canonical
        elif first == "blocks":
            block, rest = rest.split(".", 1)
            keys[f"{3 + int(block)}.{rest}"] = canonical
        else:
            keys[f"{3 + architecture.depth + 2}.{rest}"] = canonical
    return keys


def mixer_shapes(architecture: MixerArchitecture) -> Shapes:
    """Flat Flax keys with their shapes, in the order of the data; Dense kernels are [in, out]."""
    hidden, tokens, patch = architecture.hidden_dim, architecture.tokens, architecture.patch_size
    shapes = _dense("stem", (patch, patch, 3, hidden))
    for block in range(architecture.blocks):
        name = f"MixerBlock_{block}"
        shapes |= _layer_norm(f"{name}/LayerNorm_0", hidden) | _layer_norm(f"{name}/LayerNorm_1", hidden)
        for mlp, width, inner in (
            ("token_mixing", tokens, architecture.tokens_mlp_dim),
            ("channel_mixing", hidden, architecture.channels_mlp_dim),
        ):
            shapes |= _dense(f"{name}/{mlp}/Dense_0", (width, inner))
            shapes |= _dense(f"{name}/{mlp}/Dense_1", (inner, width))
    return shapes | _layer_norm("pre_head_layer_norm", hidden) | _dense("head", (hidden, architecture.classes))


def timm_mixer_keys(architecture: MixerArchitecture) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """Flax key and axes by timm's key: the Flax array is timm's tensor transposed to these axes, None for as it is.

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
    for key, shape in mixer_shapes(architecture).items():
        module, part = key.rsplit("/", 1)
        axes = {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(shape))
        keys[f"{names[module]}.{'bias' if part == 'bias' else 'weight'}"] = key, axes
    return keys


def _layer(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _batch_norm(name: str, dim: int) -> Shapes:
    vectors = {f"{name}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.{COUNTER}": ()}


def _dense(name: str, kernel: tuple[int, ...]) -> Shapes:
    return {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}


def _layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}
