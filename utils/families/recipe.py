"""How a model was trained, as far as its tensors cannot say: given, read from the trainer's own words, or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from utils.errors import ParameterError
from utils.families.base import Patches
from utils.families.variants import INTERPOLATIONS, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is known of a training; None is not known.

    Attributes:
        activation: one of `base.ACTIVATIONS`.
        epsilon: of the normalisations.
        image_size: of both sides, in pixels; 0 for any height and width.
        crop_pct: share of the shorter side that is kept, above 0 and at most 1.
        interpolation: one of `variants.INTERPOLATIONS`.
        mean, std: by channel, in levels of 0 to 255.
    """

    activation: str | None = None
    epsilon: float | None = None
    image_size: int | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def for_channels(self, channels: int, where: str) -> Recipe:
        """The same for images of so many channels; one number stands for each. ParameterError for any other count."""
        found = self
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values and len(values) not in (1, channels):
                raise ParameterError(
                    f"{name} has {len(values)} numbers, and the images of {where} have {channels} channels. Give one "
                    "of each, separated by commas."
                )
            found = replace(found, **{name: values and values * (channels // len(values))})
        return found

    @property
    def known(self) -> dict[str, Any]:
        """What is known, by field."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}


@dataclass(frozen=True)
class Trained:
    """A recipe without gaps. origins: of each field, one of `variants.ORIGINS`."""

    recipe: Recipe
    origins: Mapping[str, str]

    @property
    def preprocessing(self) -> Preprocessing:
        """How photographs are prepared; at any size, as for the one that is assumed."""
        r = self.recipe
        crop = r.image_size
        # timm's rule: https://github.com/huggingface/pytorch-image-models/blob/main/timm/data/transforms_factory.py
        return Preprocessing(math.floor(crop / r.crop_pct), crop, r.mean, r.std, r.interpolation)

    def of(self, architecture: Patches) -> Patches:
        """The same sizes with this activation and epsilon."""
        return replace(architecture, activation=self.recipe.activation, **{architecture.EPSILON: self.recipe.epsilon})


def told_by(args: Mapping[str, Any], channels: int, trained_as: Callable[[str], Recipe | None]) -> Recipe:
    """What timm's trainer leaves of its parameters in a checkpoint; what is not as it leaves it is not taken.

    https://github.com/huggingface/pytorch-image-models/blob/main/train.py: `model`, which tells what it does by itself,
    and above that `mean`, `std`, `interpolation`, `crop_pct`, `img_size` and `input_size`.

    Args:
        args: by the parameter's name.
        channels: of the model's images.
        trained_as: the recipe of timm's models by their names.
    """
    told = {}
    for name in ("mean", "std"):
        values = args.get(name)
        if not isinstance(values, list | tuple) or len(values) not in (1, channels):
            continue
        if all(type(each) in (int, float) and (0 if name == "mean" else 1e-6) <= each <= 1 for each in values):
            told[name] = tuple(round(255 * each, 6) for each in values) * (channels // len(values))
    size, sizes, crop = args.get("img_size"), args.get("input_size"), args.get("crop_pct")
    if size is None and isinstance(sizes, list | tuple) and len(sizes) == 3 and sizes[1] == sizes[2]:
        size = sizes[2]
    if type(size) is int and 0 < size <= 4096:
        told["image_size"] = size
    if type(crop) in (int, float) and 0 < crop <= 1:
        told["crop_pct"] = crop
    if args.get("interpolation") in INTERPOLATIONS:
        told["interpolation"] = args["interpolation"]
    model = args.get("model")
    usual = trained_as(model) if isinstance(model, str) else None
    return replace(usual or Recipe(), **told)


def completed(given: Recipe, told: Recipe, assumed: Recipe) -> Trained:
    """Each field by who knows it first: the user, the file, nobody.

    Args:
        given: the user's parameters; an `image_size` of 0 leaves the photographs' size to the others.
        told: what the trainer left in the file.
        assumed: every field.
    """
    given_here = {key: value for key, value in given.known.items() if key != "image_size" or value}
    values = assumed.known | told.known | given_here
    origins = dict.fromkeys(assumed.known, "assumed") | dict.fromkeys(told.known, "file")
    return Trained(Recipe(**values), origins | dict.fromkeys(given_here, "given"))
