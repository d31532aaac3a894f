"""How a model was trained, as far as its tensors cannot say: given, read from the trainer's own words, or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from utils.errors import ParameterError
from utils.families.base import Patches
from utils.families.variants import INTERPOLATIONS, Preprocessing

LEAST_CROP = 0.1  # a smaller share would make images that are resized to more than any memory


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
    size, sizes = args.get("img_size"), args.get("input_size")
    if size is None and isinstance(sizes, list | tuple) and len(sizes) == 3 and sizes[1] == sizes[2]:
        size = sizes[2]
    words = {name: args.get(name) for name in ("mean", "std", "crop_pct", "interpolation")} | {"image_size": size}
    words = {name: value for name, value in words.items() if value not in (None, "", [], ())}
    model = args.get("model")
    # `--model-kwargs act_layer=...` makes another model of it.
    changed = args.get("model_kwargs") not in (None, {})
    usual = (trained_as(model) if isinstance(model, str) and not changed else None) or Recipe()
    # A word that is not understood leaves its field unknown: what the model usually has is not what was said.
    return replace(usual, **{name: _understood(name, value, channels) for name, value in words.items()})


def _understood(name: str, value: object, channels: int) -> Any:
    """A trainer's word as a field of a recipe; None for one that makes no sense here."""
    if name in ("mean", "std"):
        least = 0 if name == "mean" else 1e-6
        numbers = value if isinstance(value, list | tuple) and len(value) in (1, channels) else [None]
        fits = all(type(each) in (int, float) and least <= each <= 1 for each in numbers)
        return tuple(round(255 * each, 6) for each in numbers) * (channels // len(numbers)) if fits else None
    if name == "interpolation":
        return value if value in INTERPOLATIONS else None
    if name == "crop_pct":
        return value if type(value) in (int, float) and LEAST_CROP <= value <= 1 else None
    return value if type(value) is int and 0 < value <= 4096 else None


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
