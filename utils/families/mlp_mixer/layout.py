"""MLP-Mixer's checkpoints: keys and shapes, worked out from the architecture; NumPy alone.

Canonical keys are the flat Flax ones; Dense kernels are [in, out].
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from utils.families.base import Headers, KerasNames, Match, NoMatchError, Place, Places, Shapes
from utils.families.mlp_mixer import MixerArchitecture
from utils.families.modules import (
    BATCH_NORM,
    CONVOLUTION,
    DENSE,
    NORM,
    Module,
    Path,
    form,
    listed,
    require_biases,
)
from utils.families.pairing import Pairing, alike, in_order, is_first, numbered_before, pair, shared
from utils.families.recipe import Recipe

MARKS = {
    "flax": (frozenset({"stem/kernel"}), frozenset({"MixerBlock_0/token_mixing/Dense_0/kernel"})),
    "timm_mixer": (frozenset({"stem.proj.weight"}), frozenset({"blocks.0.mlp_tokens.fc1.weight"})),
    # https://github.com/lucidrains/mlp-mixer-pytorch
    "lucidrains": (frozenset({"1.weight", "2.0.fn.0.weight", "2.0.norm.weight"}),),
}
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


_FLAX = re.compile(
    r"(stem|head|pre_head_layer_norm|MixerBlock_\d+/(LayerNorm_[01]|(token|channel)_mixing/Dense_[01]))/(kernel|scale|bias)"
)
# timm: https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/mlp_mixer.py
_NAMES = {
    "timm_mixer": (
        (r"stem\.proj", "stem"),
        (r"norm", "pre_head_layer_norm"),
        (r"head(?:\.\d+)?", "head"),
        (r"blocks\.(\d+)\.norm1", r"MixerBlock_\1/LayerNorm_0"),
        (r"blocks\.(\d+)\.norm2", r"MixerBlock_\1/LayerNorm_1"),
        (r"blocks\.(\d+)\.mlp_(token|channel)s\.fc1", r"MixerBlock_\1/\2_mixing/Dense_0"),
        (r"blocks\.(\d+)\.mlp_(token|channel)s\.fc2", r"MixerBlock_\1/\2_mixing/Dense_1"),
    ),
    "lucidrains": tuple(
        (rf"(\d{{1,6}})\.{index}\.{theirs}", rf"MixerBlock_\1/{ours}")
        for index, mixing in enumerate(("token", "channel"))
        for theirs, ours in (
            (r"norm", f"LayerNorm_{index}"),
            (r"fn\.0", f"{mixing}_mixing/Dense_0"),
            (r"fn\.3", f"{mixing}_mixing/Dense_1"),
        )
    ),
}
_PARTS = {"weight": "kernel", "bias": "bias"}


def places(layout: str, headers: Headers) -> Places:
    """Where a file of a known layout has what is the model's own."""
    if layout == "flax":
        return {key: Place(key) for key in headers if _FLAX.fullmatch(key)}
    # The first of each name: what else would have it is left over, and is reported.
    found = {_canonical(layout, key): key for key in reversed(list(headers))}
    if layout == "lucidrains":
        found = _with_ends(found, headers)
    return {
        canonical: _turned(key, headers[key][0], canonical)
        for canonical, key in found.items()
        if _FLAX.fullmatch(canonical)
    }


def _canonical(layout: str, key: str) -> str:
    """Flax's key of PyTorch's, or the same."""
    module, _, part = key.rpartition(".")
    for pattern, ours in _NAMES[layout]:
        if (matched := re.fullmatch(pattern, module)) and part in _PARTS:
            name = matched.expand(ours)
            if layout == "lucidrains":  # an index into one nn.Sequential, whose blocks begin at 2
                name = re.sub(r"\d+", lambda number: str(int(number[0]) - 2), name, count=1)
            return f"{name}/{'scale' if 'norm' in name.lower() and part == 'weight' else _PARTS[part]}"
    return key


def _with_ends(found: dict[str, str], headers: Headers) -> dict[str, str]:
    """With what lies before and behind the blocks of lucidrains' Sequential: patches, norm, and the last, the head."""
    ends = sorted({int(key.partition(".")[0]) for key in headers if re.fullmatch(r"[0-9]{1,6}\.(weight|bias)", key)})
    for index, name, weight in zip(
        (1, ends[-2], ends[-1]) if len(ends) > 2 else (1, ends[-1]),
        ("stem", "pre_head_layer_norm", "head"),
        ("kernel", "scale", "kernel"),
        strict=False,
    ):
        found |= {f"{name}/{weight}": f"{index}.weight", f"{name}/bias": f"{index}.bias"}
    return {canonical: key for canonical, key in found.items() if key in headers}


def _turned(key: str, shape: tuple[int, ...], canonical: str) -> Place:
    """The place of PyTorch's array: a Linear keeps its weight as [out, in], a convolution as [out, in, h, w]."""
    if not canonical.endswith("/kernel"):
        return Place(key)
    if len(shape) == 4:
        return Place(key, axes=(2, 3, 1, 0))
    if canonical == "stem/kernel" and len(shape) == 2:  # patches as rows of pixels, each with its channels
        channels = next((c for c in (3, 1) if shape[1] % c == 0 and _root(shape[1] // c)), 0)
        side = _root(shape[1] // channels) if channels else 0
        return Place(key, (shape[0], side, side, channels) if side else None, (1, 2, 3, 0))
    return Place(key, shape[:2] if len(shape) == 3 else None, (1, 0))  # a Conv1d over one position is a Linear


def _root(number: int) -> int:
    """The whole square root, or 0."""
    return root if (root := math.isqrt(number)) ** 2 == number else 0


@dataclass(frozen=True)
class _Branch:
    """An MLP: two dense layers, of which the first takes `width` numbers."""

    first: Module
    second: Module

    @property
    def path(self) -> Path:
        """Of the first layer: the MLP may have no name of its own."""
        return self.first.path

    @property
    def position(self) -> int | None:
        """Of the first layer."""
        return self.first.position

    @property
    def width(self) -> int:
        """Of tokens or channels."""
        return self.first.shape[1]


def match(modules: Sequence[Module]) -> Match:
    """An MLP-Mixer by any names: pairs of dense layers, each with the LayerNorm that shares its path."""
    if others := [module for module in modules if module.kind == BATCH_NORM]:
        raise NoMatchError(f"A Mixer normalises by LayerNorm alone; found BatchNorm: {listed(others)}.")
    stems, denses, norms = (
        [module for module in modules if module.kind == kind] for kind in (CONVOLUTION, DENSE, NORM)
    )
    if not stems:
        _, left = _branches(denses)
        raise NoMatchError(
            "A Mixer begins with a convolution of patches, and there is none. If a dense layer embeds the patches, "
            f"the order of pixels and channels in it cannot be seen in a file; found {listed(left or denses)}."
        )
    if len(stems) > 1 or stems[0].shape[2] != stems[0].shape[3]:
        raise NoMatchError(f"A Mixer has one convolution, of square patches; found {listed(stems)}.")
    require_biases(modules)
    hidden = stems[0].shape[0]
    branches, heads = _branches(denses)
    if len(heads) > 1 or any(module.shape[1] != hidden for module in heads):
        raise NoMatchError(
            f"A Mixer has two pairs of dense layers in each block, and one layer behind them, the head, from its "
            f"{hidden} features; these are left: {listed(heads)}."
        )
    tokens, channels = _by_role(branches, hidden)
    if len(norms) != 2 * len(tokens) + 1 or any(module.shape != (hidden,) for module in norms):
        raise NoMatchError(
            f"A Mixer of {len(tokens)} blocks has {2 * len(tokens) + 1} LayerNorms of {hidden} features, one of them "
            f"before the pooling; found {len(norms)}: {listed(norms)}."
        )
    pairing, last = _norms(branches, norms, dict.fromkeys(tokens, 0) | dict.fromkeys(channels, 1))
    ends = {"stem": stems[0], "pre_head_layer_norm": last} | dict(zip(("head",), heads, strict=False))
    readings = [dict(pairs) for pairs in pairing.readings()]
    doubts = list(_doubts(stems[0], tokens[0], channels[0], readings[0], last))
    if pairing.open:
        doubts.append(f"which LayerNorm belongs to which MLP, as in {listed(pairing.open[0][1])}")
    return Match([_named(ends, tokens, channels, norms) for norms in readings], "; ".join(doubts))


def _branches(denses: Sequence[Module], depth: int = 0) -> tuple[list[_Branch], list[Module]]:
    """Pairs of layers of which one's output is as wide as the other's input, by shared path; and what is left."""
    found, left, groups = [], [], {}
    for module in denses:
        if len(module.path) > depth:
            groups.setdefault(module.path[depth], []).append(module)
        else:
            left.append(module)
    for group in groups.values():
        inner, outer = _branches(group, depth + 1) if len(group) > 1 else ([], group)
        found, left = found + inner, left + outer
    behind = []
    if depth == 0 and len(left) % 2 and (there := in_order(left)):
        left, behind = there[:-1], there[-1:]  # all side by side: the last one is the head
    pairs = _pairs(left)
    return (found, left + behind) if pairs is None else (found + pairs, behind)


def _pairs(denses: Sequence[Module]) -> list[_Branch] | None:
    """Layers side by side two by two, as their order and their names tell; None where that is not known."""
    alike_named: dict[Path, list[Module]] = {}
    for module in denses:  # `token_fc1` goes with `token_fc2`
        alike_named.setdefault(form(module.path), []).append(module)
    ways = [[in_order(denses)], [in_order(group) for group in alike_named.values()]]
    found = [_two_by_two(way) for way in ways]
    first, second = (each if each is not None else other for each, other in zip(found, found[::-1], strict=True))
    return first if first is not None and set(first) == set(second) else None


def _two_by_two(lists: Sequence[list[Module] | None]) -> list[_Branch] | None:
    """The layers of each list as MLPs; None where they are none."""
    if any(each is None or len(each) % 2 for each in lists):
        return None
    found = [_Branch(*two) for each in lists for two in zip(each[::2], each[1::2], strict=True)]
    return found if all(each.first.shape == each.second.shape[::-1] for each in found) else None


def _by_role(branches: Sequence[_Branch], hidden: int) -> tuple[list[_Branch], list[_Branch]]:
    """The MLPs that mix tokens and those that mix channels, in the order of the blocks."""
    tokens = [branch for branch in branches if branch.width != hidden]
    channels = [branch for branch in branches if branch.width == hidden]
    if not tokens and (ordered := in_order(branches)):  # as many tokens as channels: only order and names tell them
        kinds = list(dict.fromkeys(form(branch.path) for branch in ordered))
        if len(kinds) == 2:
            tokens, channels = ([each for each in ordered if form(each.path) == kind] for kind in kinds)
        elif len(kinds) == 1:
            tokens, channels = ordered[::2], ordered[1::2]
    if not tokens or len(tokens) != len(channels):
        shapes = ", ".join(f"{branch.first.name}" for branch in branches[:4])
        raise NoMatchError(
            f"A Mixer of {hidden} features has in each block a pair of dense layers over tokens and one over "
            f"channels; found {len(tokens)} and {len(channels)} pairs: {shapes or 'none'}."
        )
    sizes = {(branch.first.shape, branch.second.shape) for branch in tokens}
    if len(sizes) > 1 or not _root(tokens[0].width):
        raise NoMatchError(
            f"A Mixer mixes the tokens of a square image, as many in every block; found pairs of "
            f"{sorted({branch.width for branch in tokens})}, as in {tokens[0].first.name}."
        )
    in_turn = in_order(tokens), in_order(channels)
    if None in in_turn:
        raise NoMatchError(f"Names do not tell the order of the blocks: {listed([b.first for b in tokens])}.")
    return in_turn


def _norms(branches: Sequence[_Branch], norms: Sequence[Module], ranks: dict[_Branch, int]) -> tuple[Pairing, Module]:
    """Which LayerNorm belongs to which MLP, and the one before the pooling."""
    pairing = pair(branches, norms, ranks.__getitem__)
    if pairing.layers and len(pairing.norms) == len(pairing.layers) + 1 and (there := in_order(pairing.norms)):
        rest = pair(pairing.layers, there[:-1], ranks.__getitem__)  # all side by side: the last one is last
        rest.pairs, rest.open, rest.norms = pairing.pairs + rest.pairs, pairing.open + rest.open, there[-1:]
        pairing = rest
    if pairing.layers or len(pairing.norms) != 1:
        raise NoMatchError(f"Which LayerNorm belongs to which MLP cannot be told: {listed(norms)}.")
    return pairing, pairing.norms[0]


def _doubts(
    stem: Module, tokens: _Branch, channels: _Branch, norms: dict[_Branch, Module], last: Module
) -> Iterator[str]:
    """What speaks for another architecture of the same tensors. tokens, channels: of the first block."""
    if is_first(channels, tokens):
        yield f"which comes first, as {channels.first.name} stands before {tokens.first.name}"
    for branch, norm in norms.items():
        if numbered_before(branch, norm):
            yield f"whether {norm.name} comes before or after {branch.first.name}"
            break
    early = is_first(last, tokens) if is_first(stem, last) else None
    if early is None:
        depth = shared(stem.path, last.path, tokens.path)
        early = alike(form(stem.path[depth:]), form(last.path[depth:])) > 0
    if early:
        yield f"whether {last.name} comes after {stem.name} or before the pooling"


def _named(
    ends: dict[str, Module],
    tokens: Sequence[_Branch],
    channels: Sequence[_Branch],
    norms: dict[_Branch, Module],
) -> Places:
    named = dict(ends)
    for block, two in enumerate(zip(tokens, channels, strict=True)):
        for index, (mixing, branch) in enumerate(zip(("token_mixing", "channel_mixing"), two, strict=True)):
            named[f"MixerBlock_{block}/LayerNorm_{index}"] = norms[branch]
            named[f"MixerBlock_{block}/{mixing}/Dense_0"] = branch.first
            named[f"MixerBlock_{block}/{mixing}/Dense_1"] = branch.second
    found = {}
    for name, module in named.items():
        weight = "scale" if module.kind == NORM else "kernel"
        found[f"{name}/{weight}"] = _to_flax(module)
        found[f"{name}/bias"] = module.places["bias"]
    return found


def _to_flax(module: Module) -> Place:
    """The weight's place, with Flax's axes: what comes out last."""
    place, order = module.places["weight"], {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(module.shape))
    if order is None:
        return place
    axes = order if place.axes is None else tuple(place.axes[axis] for axis in order)
    return place._replace(axes=axes)


def architecture(shapes: Shapes) -> MixerArchitecture:
    """The sizes that these arrays have."""
    stem = shapes.get("stem/kernel", ())
    tokens, channels = (shapes.get(f"MixerBlock_0/{mixing}_mixing/Dense_0/kernel", ()) for mixing in _MIXINGS)
    blocks = 0
    while any(f"MixerBlock_{blocks}/{mixing}_mixing/Dense_0/kernel" in shapes for mixing in _MIXINGS):
        blocks += 1
    if [len(each) for each in (stem, tokens, channels)] != [4, 2, 2] or stem[0] != stem[1] or not _root(tokens[0]):
        raise NoMatchError(
            "A Mixer begins with a convolution of square patches, and mixes the tokens of a square image; found "
            f"{list(stem) or 'none'}, and layers of {list(tokens) or 'none'} and {list(channels) or 'none'}."
        )
    classes = shapes.get("head/bias", (0,))
    return MixerArchitecture(
        patch_size=stem[0],
        hidden_dim=stem[3],
        blocks=blocks,
        tokens_mlp_dim=tokens[1],
        channels_mlp_dim=channels[1],
        classes=classes[0] if len(classes) == 1 else 0,
        image_size=_root(tokens[0]) * stem[0],
        channels=stem[2],
    )


_MIXINGS = ("token", "channel")


def trained_as(model: str) -> Recipe | None:
    """Timm's Mixers: https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/mlp_mixer.py.

    Not those that others trained otherwise, as `miil` tells.
    """
    if not re.fullmatch(r"mixer_[sbl](16|32)_224(\.goog\w*)?", model):
        return None
    half = (127.5,) * 3
    return Recipe(activation="gelu", epsilon=1e-6, crop_pct=0.875, interpolation="bicubic", mean=half, std=half)


def assumed(layout: str) -> tuple[str, float]:
    """Flax's tanh GELU and epsilon; of PyTorch the exact GELU, and its own epsilon where timm sets no other."""
    return {"flax": ("gelu_tanh", 1e-6), "timm_mixer": ("gelu", 1e-6)}.get(layout, ("gelu", 1e-5))


def _dense(name: str, kernel: tuple[int, ...]) -> Shapes:
    return {f"{name}/kernel": kernel, f"{name}/bias": kernel[-1:]}


def _layer_norm(name: str, width: int) -> Shapes:
    return {f"{name}/scale": (width,), f"{name}/bias": (width,)}
