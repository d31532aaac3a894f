"""ConvMixer's checkpoints: keys and shapes, worked out from the architecture; NumPy alone.

Canonical keys are those of the timm release, in PyTorch's axis order.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from utils.families.base import COUNTER, Headers, KerasNames, Match, NoMatchError, Place, Places, Shapes
from utils.families.convmixer import ConvMixerArchitecture
from utils.families.modules import (
    BATCH_NORM,
    CONVOLUTION,
    DENSE,
    NORM,
    Module,
    form,
    listed,
    require_biases,
)
from utils.families.pairing import alike, in_order, is_first, is_next, numbered_before, pair, shared
from utils.families.recipe import Recipe

MARKS = {
    "timm": (frozenset({"stem.0.weight"}), frozenset({"blocks.0.0.fn.0.weight"})),
    "sequential": (frozenset({"3.0.fn.0.weight"}), frozenset({"0.weight", "3.1.weight"})),
}
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


_TIMM = re.compile(
    r"(stem\.[02]|blocks\.\d+\.(0\.fn\.[02]|[13])|head)\.(weight|bias|running_mean|running_var|num_batches_tracked)"
)


def places(layout: str, headers: Headers) -> Places:
    """Where a file of a known layout has what is the model's own."""
    if layout == "timm":
        # timm's own head is one layer; people put others before it.
        named = [(re.sub(r"^head\.\d+\.", "head.", key), key) for key in headers]
    else:
        named = [(_of_sequential(key), key) for key in headers]
    # The first of each name: what else would have it is left over, and is reported.
    return {canonical: Place(key) for canonical, key in reversed(named) if _TIMM.fullmatch(canonical)}


def _of_sequential(key: str) -> str:
    """Canonical key by v1.0 key, an index into one nn.Sequential: stem, blocks, pooling, flattening, head."""
    first, _, rest = key.partition(".")
    if not re.fullmatch("[0-9]{1,6}", first) or not rest:
        return key
    if first in ("0", "2"):
        return f"stem.{key}"
    return f"head.{rest}" if "." not in rest else f"blocks.{int(first) - 3}.{rest}"


def match(modules: Sequence[Module]) -> Match:
    """A ConvMixer by any names: convolutions by their form, each with the BatchNorm after it."""
    if others := [module for module in modules if module.kind == NORM]:
        raise NoMatchError(f"A ConvMixer has no normalisation but BatchNorm; found {listed(others)}.")
    convolutions = [module for module in modules if module.kind == CONVOLUTION]
    if oblong := [module for module in convolutions if module.shape[2] != module.shape[3]]:
        raise NoMatchError(f"A ConvMixer's kernels are square; found {listed(oblong)}.")
    stem, depthwise, pointwise = _by_form(convolutions)
    heads = [module for module in modules if module.kind == DENSE]
    norms = [module for module in modules if module.kind == BATCH_NORM]
    depth, dim = len(depthwise), pointwise[0].shape[0]
    require_biases(modules)
    if any(module.shape[1] != dim for module in heads) or len(heads) > 1:
        raise NoMatchError(
            f"A ConvMixer has one dense layer, the head, from the {dim} features that pooling leaves; found "
            f"{listed(heads)}."
        )
    if len(norms) != 2 * depth + 1 or any(module.shape != (dim,) for module in norms):
        raise NoMatchError(
            f"A ConvMixer of {depth} blocks has {2 * depth + 1} BatchNorms of {dim} channels; found {len(norms)}: "
            f"{listed(norms)}."
        )
    ordered = in_order(depthwise), in_order(pointwise)
    if None in ordered:
        raise NoMatchError(f"Names do not tell the order of the blocks: {listed(depthwise)}.")
    ranks = {stem: -1} | dict.fromkeys(depthwise, 0) | dict.fromkeys(pointwise, 1)
    pairing = pair(convolutions, norms, ranks.__getitem__)
    if pairing.layers:
        raise NoMatchError(f"Which BatchNorm follows which convolution cannot be told: {listed(pairing.norms)}.")
    readings = [dict(pairs) for pairs in pairing.readings()]
    doubts = list(_doubts(stem, *ordered, readings[0]))
    if pairing.open:
        doubts.append(f"which BatchNorm follows which convolution, as in {listed(pairing.open[0][1])}")
    return Match([_canonical(stem, *ordered, heads, norms) for norms in readings], "; ".join(doubts))


def _by_form(convolutions: Sequence[Module]) -> tuple[Module, list[Module], list[Module]]:
    """Stem, depthwise and pointwise ones."""
    stem, depthwise, pointwise = [], [], []
    for each in convolutions:
        is_pointwise = each.shape[0] == each.shape[1] and each.shape[2:] == (1, 1)
        (pointwise if is_pointwise else depthwise if each.shape[1] == 1 else stem).append(each)
    if not stem and abs(len(depthwise) - len(pointwise)) == 1:
        # Of grey images it has a depthwise one's form; of patches of a pixel, perhaps a pointwise one's.
        fewer, more = sorted((depthwise, pointwise), key=len)
        stem = _alone(more, fewer)
        more[:] = [each for each in more if each not in stem]
    dims = {each.shape[0] for each in convolutions}
    kernels = {each.shape for each in depthwise}
    if not pointwise or len(stem) != 1 or len(depthwise) != len(pointwise) or len(dims) > 1 or len(kernels) > 1:
        raise NoMatchError(
            "A ConvMixer has one convolution of patches, and in each block a depthwise [n, 1, k, k] and a pointwise "
            f"one [n, n, 1, 1], all of one width; found {len(convolutions)} convolutions: "
            f"{listed(convolutions)}."
        )
    return stem[0], depthwise, pointwise


def _alone(convolutions: Sequence[Module], others: Sequence[Module]) -> list[Module]:
    """The one that is in no block: of another kernel or path than all the rest, else the first; [] if none is known."""
    if len(convolutions) > 2:
        for key in (lambda each: each.shape, lambda each: form(each.path)):
            counts = Counter(map(key, convolutions))
            if len(counts) == 2 and min(counts.values()) == 1:
                return [each for each in convolutions if counts[key(each)] == 1]
    elif others:
        depths = [shared(each.path, others[0].path) for each in convolutions]
        if depths[0] != depths[1]:
            return [convolutions[depths.index(min(depths))]]
    return (in_order(convolutions) or [])[:1]


def _doubts(
    stem: Module, depthwise: Sequence[Module], pointwise: Sequence[Module], norms: dict[Module, Module]
) -> Iterator[str]:
    """What speaks for another architecture of the same tensors."""
    first, second = depthwise[0], pointwise[0]
    if is_first(second, first):
        yield f"which comes first in a block, as {second.name} stands before {first.name}"
    for layer, norm in norms.items():
        if is_next(layer, norm) or numbered_before(norm, layer):
            yield f"whether an activation comes between {layer.name} and {norm.name}"
            break
    norm = norms[stem]
    follows = is_first(norm, first) if is_first(stem, first) else None
    if follows is None:
        depth = shared(stem.path, norm.path, first.path)
        follows = alike(stem.path[depth:], norm.path[depth:]) > 0
    if not follows:
        yield f"whether {norm.name} comes after {stem.name} or before the pooling"


def _canonical(
    stem: Module,
    depthwise: Sequence[Module],
    pointwise: Sequence[Module],
    heads: Sequence[Module],
    norms: dict[Module, Module],
) -> Places:
    named = {"stem.0": stem, "stem.2": norms[stem]}
    for block, (first, second) in enumerate(zip(depthwise, pointwise, strict=True)):
        name = f"blocks.{block}"
        named |= {f"{name}.0.fn.0": first, f"{name}.0.fn.2": norms[first]}
        named |= {f"{name}.1": second, f"{name}.3": norms[second]}
    named |= dict(zip(("head",), heads, strict=False))
    return {f"{name}.{part}": place for name, module in named.items() for part, place in module.places.items()}


def architecture(shapes: Shapes) -> ConvMixerArchitecture:
    """The sizes that these arrays have."""
    stem, kernel = shapes.get("stem.0.weight", ()), shapes.get("blocks.0.0.fn.0.weight", ())
    depth = 0
    while f"blocks.{depth}.0.fn.0.weight" in shapes or f"blocks.{depth}.1.weight" in shapes:
        depth += 1
    if len(stem) != 4 or len(kernel) != 4 or stem[2] != stem[3] or kernel[2] != kernel[3]:
        raise NoMatchError(
            "A ConvMixer begins with a convolution of square patches [n, channels, p, p], and its blocks with a "
            f"depthwise one [n, 1, k, k]; found {list(stem) or 'none'} and {list(kernel) or 'none'}."
        )
    classes = shapes.get("head.bias", (0,))
    return ConvMixerArchitecture(
        stem[0], depth, kernel[2], stem[2], "gelu", classes[0] if len(classes) == 1 else 0, channels=stem[1]
    )


def trained_as(model: str) -> Recipe | None:
    """Timm's ConvMixers: https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/convmixer.py."""
    name = model.partition(".")[0]
    if name not in ("convmixer_1536_20", "convmixer_768_32", "convmixer_1024_20_ks9_p14"):
        return None
    activation = "relu" if name == "convmixer_768_32" else "gelu"
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    return Recipe(activation=activation, epsilon=1e-5, crop_pct=0.96, interpolation="bicubic", mean=mean, std=std)


def assumed(layout: str) -> tuple[str, float]:
    """The exact GELU, and PyTorch's epsilon."""
    del layout
    return "gelu", 1e-5


def _layer(name: str, weight: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def _batch_norm(name: str, dim: int) -> Shapes:
    vectors = {f"{name}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")}
    return vectors | {f"{name}.{COUNTER}": ()}
