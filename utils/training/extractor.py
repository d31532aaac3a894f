"""The feature extractor that fine-tuning starts from: a published one, at the size of image that is trained on."""

from __future__ import annotations

from dataclasses import replace

from utils.artefact.opening import Pretrained, open_model
from utils.errors import ParameterError
from utils.notebook.parameters import check_whole_patches, preprocessing_for


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
    fixed = found.manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1]
    if image_size not in (0, found.preprocessing.crop):
        if fixed is not None:
            raise ParameterError(
                f"image_size is {image_size}; {found.name} takes images of {fixed} pixels only. Use 0 or {fixed}"
                + (", or convert a ConvMixer with image_size = 0." if found.variant.family == "convmixer" else ".")
            )
        check_whole_patches(found.variant, image_size, "its own size")
    own = replace(found.variant, preprocessing=found.preprocessing)
    return replace(found, preprocessing=preprocessing_for(own, image_size))
