"""What notebooks and commands are asked for, checked before anything is downloaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from utils.errors import ParameterError
from utils.families import FAMILIES
from utils.families.base import ACTIVATIONS
from utils.families.recipe import LEAST_CROP, Recipe
from utils.families.variants import (
    BESIDE,
    FORMATS,
    HEADS,
    INTERPOLATIONS,
    OPERATIONS,
    OWN,
    Preprocessing,
    Variant,
    check_name,
    get_variant,
)
from utils.files import user_path
from utils.images.labels import own_labels

KEYWORDS = ("auto", "official", "synthetic")  # what `checkpoint` may be, besides a path


@dataclass(frozen=True)
class Settings:
    """What a conversion is asked for: the parameters of the two conversion notebooks.

    Those from `name` on are for one's own checkpoint; "auto", 0 and "" leave them to the file or to the family.

    Attributes:
        variant: name of a row of `families.variants`, or "own": the sizes are read from the file.
        head: "classification" or "fe".
        checkpoint: "auto", "official", "synthetic", or the path of a file.
        image_size: in pixels; "auto" is the one that it was trained on, 0 any height and width (ConvMixer).
        output_dir: where the artefact goes.
        seed: of synthetic weights and of the inputs that are compared.
        operations: "xla", or for an MLP-Mixer "plain".
        labels: path of a file with a class name per line, "" for none.
        use_ema: take the weights' moving average, which only a trainer's file can hold.
        formats: "saved_model", followed by commas and the formats of further files, see `formats_of`.
        name: what the artefact is called before its head; by default the variant's, of "own" the file's.
        overwrite: let it take the place of an artefact of that name which came from another source.
        weights: which of several sets of weights in the file.
        activation: one of `families.base.ACTIVATIONS`.
        epsilon: of the normalisations.
        mean: by channel, numbers of 0 to 1 separated by commas.
        std: likewise.
        interpolation: one of `families.variants.INTERPOLATIONS`.
        crop_pct: share of the shorter side that is kept.
        reference: path of an .npz with what the maker's own code computes, see `parity.reference`.
    """

    variant: str
    head: str = "classification"
    checkpoint: str = "auto"
    image_size: int | str = "auto"
    output_dir: str = "exports"
    seed: int = 0
    operations: str = "xla"
    labels: str = ""
    use_ema: bool = False
    formats: str = "saved_model"
    name: str = ""
    overwrite: bool = False
    weights: str = "auto"
    activation: str = "auto"
    epsilon: float = 0
    mean: str = "auto"
    std: str = "auto"
    interpolation: str = "auto"
    crop_pct: float = 0
    reference: str = ""

    def check(self, family: str | None = None) -> Variant | None:
        """The variant, if every parameter makes sense together with the others; None for "own".

        family: the notebook's, if one converts. Raises ParameterError, naming the parameter, what it was and what it
        may be. What depends on a checkpoint's sizes, `check_size` checks once they are known.
        """
        variant = None if self.variant == OWN else get_variant(self.variant, family)
        family = variant.family if variant else family
        one_of("head", self.head, HEADS)
        one_of("operations", self.operations, OPERATIONS)
        self._check_checkpoint(variant)
        whole_number("seed", self.seed, 0, 2**32 - 1)
        if self.image_size != "auto":
            whole_number("image_size", self.image_size, 0, 4096, '"auto" or ')
        check_output_dir(self.output_dir)
        _check_labels(self.labels, self.head)
        formats_of(self.formats)
        for name in ("use_ema", "overwrite"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} is {getattr(self, name)!r}; expected True or False")
        self._check_own()
        if family:
            self.check_family(family)
        if variant and self.is_own is False:
            self.check_size(variant)
        return variant

    def check_family(self, family: str) -> None:
        """ParameterError for what models of a family do not have."""
        known = FAMILIES[family]
        if self.operations not in known.operations:
            raise ParameterError(
                f"operations is {self.operations!r}; a {known.title} has only {', '.join(known.operations)}"
            )
        formats_of(self.formats, family)

    def check_size(self, variant: Variant) -> None:
        """ParameterError for an `image_size` that a variant cannot take."""
        size = self.size(variant)
        if not FAMILIES[variant.family].any_size and size != variant.image_size:
            raise ParameterError(
                f"image_size is {size}; {variant.name} mixes {variant.architecture.tokens} tokens, "
                f"so it takes only the size that it was trained on: {variant.image_size}"
            )
        if variant.name != OWN:
            check_whole_patches(variant, size, "any height and width")
        elif variant.image_size < variant.architecture.patch_size:  # PyTorch leaves the rest of more than a patch out
            raise ParameterError(
                f"image_size is {self.image_size!r}, so images have {variant.image_size} pixels, which is less than "
                f"the model's patch of {variant.architecture.patch_size}. Set image_size to what it was trained on"
            )

    def size(self, variant: Variant) -> int:
        """Pixels of both sides; 0 for any."""
        return variant.image_size if self.image_size == "auto" else self.image_size

    @property
    def is_own(self) -> bool:
        """Whether the checkpoint is a file of the user's."""
        return self.checkpoint not in KEYWORDS

    @property
    def recipe(self) -> Recipe:
        """What the user tells of how the model was trained. ParameterError as `check`."""
        return Recipe(
            activation=None if self.activation == "auto" else self.activation,
            epsilon=self.epsilon or None,
            image_size=None if self.image_size == "auto" else self.image_size,
            crop_pct=self.crop_pct or None,
            interpolation=None if self.interpolation == "auto" else self.interpolation,
            mean=_levels("mean", self.mean),
            std=_levels("std", self.std),
        )

    def _check_checkpoint(self, variant: Variant | None) -> None:
        some_text("checkpoint", self.checkpoint, f"{', '.join(KEYWORDS)} or the path of a file")
        if self.is_own and not user_path(self.checkpoint).is_file():
            raise ParameterError(
                f"checkpoint is {self.checkpoint!r}, and there is no such file; "
                f"expected {', '.join(KEYWORDS)} or the path of a checkpoint file"
            )
        if not variant and not self.is_own:
            raise ParameterError(
                f"variant is {OWN!r}, and checkpoint is {self.checkpoint!r}; expected the path of a checkpoint file, "
                "whose sizes are read from it"
            )
        if self.checkpoint == "official" and not variant.sources:
            raise ParameterError(
                f"{variant.name} is a tiny model for tests, without an official file; use checkpoint='synthetic' or a "
                "path"
            )

    def _check_own(self) -> None:
        """What is for one's own checkpoint alone, value by value; official and synthetic weights are known."""
        if self.name != "":
            check_name(self.name)
        some_text("weights", self.weights, "'auto' or the name of one of several sets of weights in the file")
        one_of("activation", self.activation, ("auto", *ACTIVATIONS))
        one_of("interpolation", self.interpolation, ("auto", *INTERPOLATIONS))
        if self.epsilon:
            _number("epsilon", self.epsilon, 1e-12, 0.1)  # less is lost in float32 beside any variance
        if self.crop_pct:
            _number("crop_pct", self.crop_pct, LEAST_CROP, 1)
        _levels("mean", self.mean), _levels("std", self.std)
        if not isinstance(self.reference, str) or (self.reference and not user_path(self.reference).is_file()):
            raise ParameterError(f"reference is {self.reference!r}; expected the path of an .npz file, or ''")
        used = [name for name in _FOR_OWN if getattr(self, name) != getattr(Settings, name)]
        if used and not self.is_own:
            raise ParameterError(
                f"{used[0]} is {getattr(self, used[0])!r}, and checkpoint is {self.checkpoint!r}; it is for a local "
                f"checkpoint file alone. Leave it as it is, or set checkpoint to the path of that file"
            )


# Parameters that make sense for a local checkpoint file alone.
_FOR_OWN = ("use_ema", "weights", "activation", "epsilon", "mean", "std", "interpolation", "crop_pct", "reference")


def _levels(name: str, value: object) -> tuple[float, ...] | None:
    """Numbers of 0 to 1 separated by commas, in levels of 0 to 255; None for "auto"."""
    if value == "auto":
        return None
    try:
        found = tuple(float(part) for part in value.split(",")) if isinstance(value, str) else ()
    except ValueError:
        found = ()
    least = 0 if name == "mean" else 1e-6
    if not found or not all(least <= each <= 1 for each in found):
        raise ParameterError(
            f"{name} is {value!r}; expected 'auto', or numbers from {least:g} to 1 separated by commas, one of each "
            "channel, such as '0.485, 0.456, 0.406'"
        )
    return tuple(round(255 * each, 6) for each in found)


def _number(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ParameterError(f"{name} is {value!r}; expected a number from {least} to {most}, 0 for what is usual")


def formats_of(formats: str, family: str = "") -> tuple[str, ...]:
    """What `formats` names, separated by commas: those of which there is to be a file beside the SavedModel.

    "saved_model", which is always made, may be left out. ParameterError for anything else, and for a file that models
    of the `family` do not have.
    """
    named = tuple(each.strip() for each in formats.split(",")) if isinstance(formats, str) else ()
    had = FAMILIES[family].formats if family else tuple(BESIDE)
    if not named or len(set(named)) < len(named) or set(named) - set(FORMATS):
        raise ParameterError(
            f"formats is {formats!r}; expected 'saved_model', and behind commas any of {', '.join(had)} for a file "
            "beside it"
        )
    if others := [key for key in named if key in BESIDE and key not in had]:
        raise ParameterError(
            f"formats is {formats!r}, and models of the family {family} have no .{others[0]} file; expected "
            f"'saved_model', and behind commas any of {', '.join(had)}"
        )
    return tuple(dict.fromkeys(("saved_model", *named)))


def preprocessing_for(variant: Variant, image_size: int) -> Preprocessing:
    """The variant's preprocessing, scaled to `image_size` pixels (0: the trained size) at the same crop fraction."""
    trained = variant.preprocessing
    if image_size in (0, trained.crop):
        return trained
    return dataclasses.replace(trained, crop=image_size, resize=round(image_size * trained.resize / trained.crop))


def one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    """ParameterError, naming the parameter, unless `value` is one of `known`."""
    if value not in known:
        raise ParameterError(f"{name} is {value!r}; expected one of {', '.join(known)}")


def some_text(name: str, value: object, expected: str) -> None:
    """ParameterError, naming the parameter and what was `expected`, unless `value` is a text and not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ParameterError(f"{name} is {'empty' if isinstance(value, str) else repr(value)}; expected {expected}")


def whole_number(name: str, value: object, least: int, most: int, otherwise: str = "") -> None:
    """ParameterError, naming the parameter, unless `value` is an int, and no bool, from `least` to `most`.

    otherwise: what else is expected, in words.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ParameterError(f"{name} is {value!r}; expected {otherwise}a whole number from {least} to {most}")


def check_whole_patches(variant: Variant, image_size: int, zero: str) -> None:
    """ParameterError unless the image is whole patches; `zero` is what an `image_size` of 0 stands for.

    One's own model may have been trained on others: PyTorch leaves the rest out, and so does an export.
    """
    patch = variant.architecture.patch_size
    if image_size % patch and variant.name != OWN:
        below = max(patch, image_size - image_size % patch)
        raise ParameterError(
            f"image_size is {image_size}, not a multiple of {variant.name}'s patch of {patch} pixels: the rest of "
            f"the image would be cut off unseen. Use {below} or {below + patch}, or 0 for {zero}"
        )


def _check_labels(labels: str, head: str) -> None:
    if not isinstance(labels, str):
        raise ParameterError(f"labels is {labels!r}; expected the path of a file with one class name per line, or ''")
    if labels:
        if head == "fe":
            raise ParameterError(f"labels is {labels!r}, and head is 'fe', which has no classes. Leave labels empty")
        own_labels(labels)


def check_output_dir(output_dir: str) -> None:
    """ParameterError unless it is the path of a folder, or of nothing yet."""
    some_text("output_dir", output_dir, "the path of a folder, such as 'exports'")
    if user_path(output_dir).exists() and not user_path(output_dir).is_dir():
        raise ParameterError(f"output_dir is {output_dir!r}, which is a file; expected the path of a folder")
