"""Every model this project converts: a row joins files, sizes, preprocessing, accuracy, licence and paper.

Adding a model is adding a row. Lengths are in pixels, accuracies in per cent.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import ParameterError
from utils.families import FAMILIES
from utils.families.base import STATISTICS, Patches
from utils.families.convmixer import ConvMixerArchitecture
from utils.families.mlp_mixer import MixerArchitecture
from utils.families.papers import LOSSES, MIXER_FOLDERS, PAPERS

OUTPUTS = {"classification": "logits", "fe": "features"}  # of each head
HEADS = tuple(OUTPUTS)
OWN = "own"  # `variant` of a checkpoint whose sizes are read from the file
WEIGHTS = ("official", "synthetic", "custom")
OPERATIONS = ("xla", "plain")
MAX_CHANNELS = 1024  # of an image
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")  # of an artefact
ORIGINS = ("given", "file", "assumed")  # a parameter, the checkpoint, or neither
INTERPOLATIONS = ("bicubic", "bilinear")


# Files that a conversion can leave beside the SavedModel, `<name>.` and the format's name: whose each is, for people.
BESIDE = {"keras": "Keras 3", "onnx": "ONNX"}
FORMATS = ("saved_model", *BESIDE)


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize`, centre crop to `crop`, then (x - mean) / std by channel, x in [0, 255].

    A photograph for a model of one channel is made grey first. Of two channels, or more than three, there is none.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"

    @property
    def channels(self) -> int:
        """Of the model's images."""
        return len(self.mean)

    @property
    def takes_photographs(self) -> bool:
        """Whether a photograph can be made what the model takes: RGB or grey."""
        return self.channels in (1, 3)

    def check_photographs(self, model: str = "the model") -> None:
        """ParameterError, naming the model, unless photographs can be prepared for it."""
        self.check()
        if not self.takes_photographs:
            raise ParameterError(
                f"{model} takes images of {self.channels} channels, and photographs have 1 (grey) or 3 (RGB). Choose "
                "a model of 1 or 3 channels, or call this one with arrays of your own."
            )

    def check(self) -> None:
        """ParameterError for what no image can be prepared with."""
        if not 0 < self.crop <= self.resize:
            raise ParameterError(
                f"preprocessing: crop = {self.crop} must be at least 1 and at most resize = {self.resize}."
            )
        if self.interpolation not in INTERPOLATIONS:
            raise ParameterError(
                f"preprocessing: interpolation = {self.interpolation!r} is not known. Choose one of: "
                f"{', '.join(INTERPOLATIONS)}."
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != max(1, self.channels) or not all(map(math.isfinite, values)):
                raise ParameterError(
                    f"preprocessing: {name} = {values} must be {self.channels} numbers, one of each channel."
                )
        if not all(value > 0 for value in self.std):
            raise ParameterError(f"preprocessing: std = {self.std} must be above 0 in every channel.")


@dataclass(frozen=True)
class Source:
    """Where a checkpoint is, and its key layout: "timm" or "sequential" (ConvMixer), "flax" or "timm_mixer" (Mixer).

    A mirror on the Hugging Face Hub names its `repository` and `file` too.
    """

    url: str
    layout: str
    repository: str = ""
    file: str = ""


@dataclass(frozen=True)
class Variant:
    """One model. `top1` is its accuracy on ImageNet-1k.

    loss: that of its authors' recipe, with who says so; "" if it is not known.
    origins: of one's own checkpoint, where "activation", "epsilon", "image_size", "crop_pct", "interpolation", "mean"
    and "std" are from, one of `ORIGINS`. Empty for a row, whose authors published them.
    """

    name: str
    family: str
    architecture: Patches
    preprocessing: Preprocessing
    sources: tuple[Source, ...]
    top1: float | None
    top1_source: str
    labels: str | None
    trained_on: str
    licence: str
    licence_url: str
    paper: str
    paper_url: str
    upstream_url: str
    citation: str
    testing: bool = False
    loss: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every canonical key of the checkpoint with its shape."""
        return FAMILIES[self.family].layout.shapes(self.architecture)

    @property
    def parameters(self) -> int:
        """Number of the classifier's trainable parameters."""
        return sum(math.prod(shape) for key, shape in self.shapes.items() if not key.endswith(STATISTICS))

    @property
    def image_size(self) -> int:
        """Height and width of the model's input."""
        return self.preprocessing.crop


_CONVMIXER_RELEASES = "https://github.com/tmp-iclr/convmixer/releases/download/"
_MIXER_BUCKET = "https://storage.googleapis.com/mixer_models/"
# hidden_dim, blocks, tokens_mlp_dim, channels_mlp_dim: Table 1 of the MLP-Mixer paper.
_MIXER_SIZES = {"S": (512, 8, 256, 2048), "B": (768, 12, 384, 3072), "L": (1024, 24, 512, 4096)}
_CLASSES = {"imagenet1k": 1000, "imagenet21k": 21843}


# timm's copies of the same weights on the Hugging Face Hub, which are asked last. timm/models/convmixer.py and
# mlp_mixer.py tell where each is from: ConvMixer's of the authors' release; `goog_in21k` and `goog_in21k_ft_in1k` of
# Google's imagenet21k/ and imagenet1k/ (through jx_mixer_*.pth, whatever the names say of the training). Not here:
# `miil_*`, trained by others on other data. SAM's and GSAM's models have no copy.
_HUB = {
    "convmixer_1536_20": "convmixer_1536_20.in1k",
    "convmixer_768_32": "convmixer_768_32.in1k",
    "convmixer_1024_20": "convmixer_1024_20_ks9_p14.in1k",
    "mixer_b16_i21k": "mixer_b16_224.goog_in21k",
    "mixer_l16_i21k": "mixer_l16_224.goog_in21k",
    "mixer_b16_i1k": "mixer_b16_224.goog_in21k_ft_in1k",
    "mixer_l16_i1k": "mixer_l16_224.goog_in21k_ft_in1k",
}


def _mirrors(name: str, layout: str) -> tuple[Source, ...]:
    if name not in _HUB:
        return ()
    repository, file = f"timm/{_HUB[name]}", "model.safetensors"
    url = f"https://huggingface.co/{repository}/resolve/main/{file}"
    return (Source(url, layout, repository, file),)


def _row(
    name: str,
    family: str,
    architecture: Patches,
    top1: float | None,
    top1_source: str,
    image_size: int = 224,
    **facts: Any,
) -> Variant:
    kind = FAMILIES[family]
    return Variant(
        name=name,
        family=family,
        architecture=architecture,
        preprocessing=Preprocessing(math.floor(image_size / kind.crop), image_size, kind.mean, kind.std),
        top1=top1,
        top1_source=top1_source,
        licence=kind.licence,
        licence_url=kind.licence_url,
        upstream_url=kind.upstream_url,
        **facts,
    )


def _convmixer(name: str, file: str, architecture: ConvMixerArchitecture, *top1: Any) -> Variant:
    # timm's own release first: it is what timm and its descendants download.
    sources = (
        Source(_CONVMIXER_RELEASES + "timm-v1.0/" + file, "timm"),
        Source(_CONVMIXER_RELEASES + "v1.0/" + file, "sequential"),
        *_mirrors(name, "timm"),
    )
    facts = {"labels": "imagenet1k", "trained_on": "ImageNet-1k", **PAPERS["convmixer"], "loss": LOSSES["convmixer"]}
    return _row(name, "convmixer", architecture, *top1, sources=sources, **facts)


def _mixer(name: str, folder: str, size: str, patch_size: int, *top1: Any) -> Variant:
    facts = MIXER_FOLDERS[folder] | {"loss": LOSSES.get(folder, "")}
    architecture = MixerArchitecture(patch_size, *_MIXER_SIZES[size], _CLASSES[facts["labels"]], image_size=224)
    source = Source(f"{_MIXER_BUCKET}{folder}/Mixer-{size}_{patch_size}.npz", "flax")
    sources = (source, *_mirrors(name, "timm_mixer"))
    return _row(name, "mixer", architecture, *top1, sources=sources, **facts)


def _testing(name: str, family: str, architecture: Patches) -> Variant:
    random = "random weights, for tests and dry runs"
    facts = {"sources": (), "labels": None, "trained_on": f"nothing: {random}", "testing": True, **PAPERS[family]}
    return _row(name, family, architecture, None, f"none: {random}", image_size=48, **facts)


_CONVMIXER_README = "the authors' README, https://github.com/locuslab/convmixer#evaluation"
_CONVMIXER_PAPER = "ConvMixer paper, results on ImageNet-1k, https://arxiv.org/abs/2201.09792"
_PAPER_1K = "MLP-Mixer paper, trained on ImageNet for 300 epochs at 224 pixels, https://arxiv.org/abs/2105.01601"
_NO_21K = "none published: this head has ImageNet-21k's classes; the paper reports fine-tuned models only"
_PAPER_SAM = "SAM paper, results on ImageNet, https://arxiv.org/abs/2106.01548"
# Only figures that could be read in a source stand here; these two papers' full tables could not.
_UNREAD_SAM = "none confirmed: see the tables of the SAM paper, https://arxiv.org/abs/2106.01548"
_UNREAD_GSAM = "none confirmed: see the tables of the GSAM paper, https://arxiv.org/abs/2203.08065"

# fmt: off
_ROWS = (
    _convmixer("convmixer_1536_20", "convmixer_1536_20_ks9_p7.pth.tar",
               ConvMixerArchitecture(1536, 20, 9, 7, "gelu", 1000), 81.37, _CONVMIXER_README),
    # The README's warning: ReLU, though the published definition says GELU.
    _convmixer("convmixer_768_32", "convmixer_768_32_ks7_p7_relu.pth.tar",
               ConvMixerArchitecture(768, 32, 7, 7, "relu", 1000), 80.16, _CONVMIXER_PAPER),
    _convmixer("convmixer_1024_20", "convmixer_1024_20_ks9_p14.pth.tar",
               ConvMixerArchitecture(1024, 20, 9, 14, "gelu", 1000), 76.94, _CONVMIXER_PAPER),
    _mixer("mixer_b16_sam", "sam", "B", 16, 77.4, _PAPER_SAM),
    _mixer("mixer_b32_sam", "sam", "B", 32, None, _UNREAD_SAM),
    _mixer("mixer_b16_i1k", "imagenet1k", "B", 16, 76.44, _PAPER_1K),
    _mixer("mixer_l16_i1k", "imagenet1k", "L", 16, 71.76, _PAPER_1K),
    _mixer("mixer_b16_i21k", "imagenet21k", "B", 16, None, _NO_21K),
    _mixer("mixer_l16_i21k", "imagenet21k", "L", 16, None, _NO_21K),
    _mixer("mixer_s8_gsam", "gsam", "S", 8, None, _UNREAD_GSAM),
    _mixer("mixer_s16_gsam", "gsam", "S", 16, None, _UNREAD_GSAM),
    _mixer("mixer_s32_gsam", "gsam", "S", 32, None, _UNREAD_GSAM),
    _mixer("mixer_b16_gsam", "gsam", "B", 16, None, _UNREAD_GSAM),
    _mixer("mixer_b32_gsam", "gsam", "B", 32, None, _UNREAD_GSAM),
    _testing("convmixer_tiny", "convmixer", ConvMixerArchitecture(32, 3, 5, 4, "gelu", 10)),
    _testing("convmixer_tiny_relu", "convmixer", ConvMixerArchitecture(24, 2, 7, 6, "relu", 7)),
    _testing("mixer_tiny", "mixer", MixerArchitecture(8, 32, 2, 16, 64, 10, image_size=48)),
)
# fmt: on
VARIANTS: dict[str, Variant] = {row.name: row for row in _ROWS}


def get_variant(name: str, family: str | None = None) -> Variant:
    """Finds a variant; ParameterError lists the known ones, or names the notebook of the other family."""
    known = [row.name for row in VARIANTS.values() if family in (None, row.family)]
    variant = VARIANTS.get(name) if isinstance(name, str) else None
    if variant is None:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ParameterError(f"variant = {name!r} is not known.{hint} Choose one of: {', '.join(known)}.")
    if name not in known:
        raise ParameterError(
            f"variant = {name!r} is of the {variant.family} family, and this converts {family} models. "
            f"Use {FAMILIES[variant.family].notebook} for it, or choose one of: {', '.join(known)}."
        )
    return variant


def own_variant(family: str, **facts: Any) -> Variant:
    """The row of one's own checkpoint: nothing that holds for official weights alone.

    Args:
        family: one of `FAMILIES`.
        facts: `architecture`, `preprocessing` and `origins`; `name`, if the checkpoint is of a named variant's sizes.
    """
    kind = FAMILIES[family]
    told = {
        "name": OWN,
        "sources": (),
        "top1": None,
        "top1_source": "none: a local checkpoint file",
        "labels": None,
        "trained_on": "not known: a local checkpoint file",
        "licence": kind.licence,
        "licence_url": kind.licence_url,
        "upstream_url": kind.upstream_url,
        **PAPERS[family],
    }
    return Variant(family=family, **told | facts)


def name_of_file(path: str | os.PathLike) -> str:
    """What an artefact of one's own file is called: the file's name without its endings, in characters of `NAME`."""
    stem = re.sub(r"(\.(pth|pt|tar|ckpt|bin|safetensors|npz|msgpack))+$", "", Path(path).name, flags=re.IGNORECASE)
    found = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:64]
    return re.sub("(_synthetic)+$", "", found) or OWN


def check_name(name: object) -> None:
    """ParameterError unless artefacts of any head and weights can be called by this `name` of one's own."""
    fits = isinstance(name, str) and NAME.fullmatch(name) and len(name) <= 64 and not name.endswith("_synthetic")
    if not fits:
        raise ParameterError(
            f"name is {name!r}; expected at most 64 letters, digits, - and _, with a letter or digit first, and no "
            "_synthetic at its end"
        )


def artefact_name(name: str, head: str, weights: str, operations: str = "xla") -> str:
    """Name of the artefact: `<name>_<head>[_plain][_synthetic]`.

    Args:
        name: of a row, or of one's own.
        head: one of `HEADS`.
        weights: one of `WEIGHTS`.
        operations: one of `OPERATIONS`.

    Raises:
        ParameterError: one of them is not known.
    """
    for parameter, value, known in (
        ("head", head, HEADS),
        ("weights", weights, WEIGHTS),
        ("operations", operations, OPERATIONS),
    ):
        if value not in known:
            raise ParameterError(f"{parameter} = {value!r} is not known. Choose one of: {', '.join(known)}.")
    plain = "_plain" if operations == "plain" else ""
    synthetic = "_synthetic" if weights == "synthetic" else ""
    return f"{name}_{head}{plain}{synthetic}"
