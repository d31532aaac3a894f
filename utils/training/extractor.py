"""The feature extractor that fine-tuning starts from: a published one, at the size of image that is trained on."""

from __future__ import annotations

from dataclasses import replace

from utils.artefact.opening import Pretrained, open_model
from utils.errors import ParameterError
from utils.models.variants import Preprocessing


def open_extractor(model: str, image_size: int) -> Pretrained:
    """The extractor behind the notebook's `model`, as `open_model`, with the preprocessing for `image_size` pixels.

    Raises ParameterError, above what `open_model` raises, when it is a classifier, of a variant that this version does
    not know, or does not take images of `image_size` (0 for its own size).
    """
    found = open_model(model)
    if found.output != "features":
        raise ParameterError(
            f"model = {model} is a classifier ({found.name}), and fine-tuning puts a head of its own on a "
            f'feature extractor. Convert the same checkpoint with head = "fe", and pass {found.variant.name}_fe.'
        )
    return replace(found, preprocessing=_at_size(found, image_size))


def _at_size(model: Pretrained, image_size: int) -> Preprocessing:
    own, variant = model.preprocessing, model.variant
    fixed = model.manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1]
    if image_size in (0, own.crop):
        return own
    if fixed is not None:
        raise ParameterError(
            f"image_size is {image_size}; {model.name} takes images of {fixed} pixels only. Use 0 or {fixed}"
            + (", or convert a ConvMixer with image_size = 0." if variant.family == "convmixer" else ".")
        )
    if image_size % variant.architecture.patch_size:
        patch = variant.architecture.patch_size
        raise ParameterError(
            f"image_size is {image_size}, not a multiple of {variant.name}'s patch of {patch} pixels. "
            f"Use {max(patch, image_size - image_size % patch)} or {image_size - image_size % patch + patch}."
        )
    return replace(own, crop=image_size, resize=round(image_size * own.resize / own.crop))
