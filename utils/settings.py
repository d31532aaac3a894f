"""What notebooks and commands are asked for, checked before anything is downloaded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from utils.errors import ParameterError
from utils.families import FAMILIES
from utils.families.variants import BESIDE, FORMATS, HEADS, OPERATIONS, Preprocessing, Variant, get_variant
from utils.files import user_path
from utils.images.labels import own_labels

KEYWORDS = ("auto", "official", "synthetic")  # what `checkpoint` may be, besides a path


@dataclass(frozen=True)
class Settings:
    """What a conversion is asked for: the parameters of the two conversion notebooks.

    Attributes:
        variant: name of a row of `families.variants`.
        head: "classification" or "fe".
        checkpoint: "auto", "official", "synthetic", or the path of a file.
        image_size: in pixels; 0 for any height and width (ConvMixer), None for the variant's own.
        output_dir: where the artefact goes.
        seed: of synthetic weights and of the inputs that are compared.
        operations: "xla", or for an MLP-Mixer "plain".
        labels: path of a file with a class name per line, "" for none.
        use_ema: take the weights' moving average, which only a ConvMixer's local file can hold.
        formats: "saved_model", followed by commas and the formats of further files, see `formats_of`.
    """

    variant: str
    head: str = "classification"
    checkpoint: str = "auto"
    image_size: int | None = None
    output_dir: str = "exports"
    seed: int = 0
    operations: str = "xla"
    labels: str = ""
    use_ema: bool = False
    formats: str = "saved_model"

    def check(self, family: str | None = None) -> Variant:
        """The variant, if every parameter makes sense together with the others.

        family: the notebook's, if one converts. Raises ParameterError, naming the parameter, what it was and what it
        may be.
        """
        variant = get_variant(self.variant, family)
        known = FAMILIES[variant.family]
        one_of("head", self.head, HEADS)
        one_of("operations", self.operations, OPERATIONS)
        if self.operations not in known.operations:
            raise ParameterError(
                f"operations is {self.operations!r}; a {known.title} has only {', '.join(known.operations)}"
            )
        self._check_checkpoint(variant)
        whole_number("seed", self.seed, 0, 2**32 - 1)
        _check_image_size(variant, self.size(variant))
        check_output_dir(self.output_dir)
        _check_labels(self.labels, self.head)
        formats_of(self.formats, variant.family)
        if not isinstance(self.use_ema, bool):
            raise ParameterError(f"use_ema is {self.use_ema!r}; expected True or False")
        if self.use_ema and (not known.has_average or self.checkpoint in KEYWORDS):
            raise ParameterError(
                f"use_ema is True, and checkpoint is {self.checkpoint!r}; only a local PyTorch file of a ConvMixer's "
                "training may hold a moving average of the weights. Set use_ema to False, or checkpoint to that file"
            )
        return variant

    def size(self, variant: Variant) -> int:
        """Pixels of both sides; 0 for any."""
        return variant.image_size if self.image_size is None else self.image_size

    def _check_checkpoint(self, variant: Variant) -> None:
        some_text("checkpoint", self.checkpoint, f"{', '.join(KEYWORDS)} or the path of a file")
        if self.checkpoint not in KEYWORDS and not user_path(self.checkpoint).is_file():
            raise ParameterError(
                f"checkpoint is {self.checkpoint!r}, and there is no such file; "
                f"expected {', '.join(KEYWORDS)} or the path of a checkpoint file"
            )
        if self.checkpoint == "official" and not variant.sources:
            raise ParameterError(
                f"{variant.name} is a tiny model for tests, without an official file; use checkpoint='synthetic' or a "
                "path"
            )


def formats_of(formats: str, family: str = "") -> tuple[str, ...]:
    """What `formats` names, separated by commas: "saved_model", and those of which there is to be a file beside it.

    ParameterError for anything else, and for a file that models of the `family` do not have.
    """
    named = tuple(each.strip() for each in formats.split(",")) if isinstance(formats, str) else ()
    had = FAMILIES[family].formats if family else tuple(BESIDE)
    if "saved_model" not in named or len(set(named)) < len(named) or set(named) - set(FORMATS):
        raise ParameterError(
            f"formats is {formats!r}; expected 'saved_model', and behind commas any of {', '.join(had)} for a file "
            "beside it"
        )
    if others := [key for key in named if key in BESIDE and key not in had]:
        raise ParameterError(
            f"formats is {formats!r}, and models of the family {family} have no .{others[0]} file; expected "
            f"'saved_model', and behind commas any of {', '.join(had)}"
        )
    return named


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


def whole_number(name: str, value: object, least: int, most: int) -> None:
    """ParameterError, naming the parameter, unless `value` is an int, and no bool, from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ParameterError(f"{name} is {value!r}; expected a whole number from {least} to {most}")


def _check_image_size(variant: Variant, image_size: int) -> None:
    whole_number("image_size", image_size, 0, 4096)
    if not FAMILIES[variant.family].any_size and image_size != variant.image_size:
        raise ParameterError(
            f"image_size is {image_size}; {variant.name} mixes {variant.architecture.tokens} tokens, "
            f"so it takes only the size that it was trained on: {variant.image_size}"
        )
    check_whole_patches(variant, image_size, "any height and width")


def check_whole_patches(variant: Variant, image_size: int, zero: str) -> None:
    """ParameterError unless the image is whole patches; `zero` is what an `image_size` of 0 stands for."""
    patch = variant.architecture.patch_size
    if image_size % patch:
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
