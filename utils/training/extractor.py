"""The feature extractor that fine-tuning starts from: a published one, at the size of image that is trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from utils.artefact.opening import Pretrained, is_keras, open_keras, open_model
from utils.errors import PackagingError, ParameterError
from utils.notebook.parameters import check_whole_patches, preprocessing_for


def open_extractor(model: str, image_size: int, keras: str = "tf_keras") -> Pretrained:
    """The extractor behind the notebook's `model`, as `open_model`, with the preprocessing for `image_size` pixels.

    keras: which trains it. For "keras_3" the `.keras` file is found too, if `model` is one or one lies beside it. The
    SavedModel is always needed, since the result is saved as one.

    Raises ParameterError, above what `open_model` raises, when it is a classifier, of a variant that this version does
    not know, or does not take images of `image_size` (0 for its own size), and where a `.keras` file has no SavedModel
    beside it.
    """
    found = _with_keras(model) if keras == "keras_3" else open_model(model)
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


def _with_keras(model: str) -> Pretrained:
    """The SavedModel and, if it has one, its `.keras` file, whichever of both `model` is."""
    if not is_keras(model):
        found = open_model(model)
        beside = Path(model).expanduser().absolute().parent / f"{found.name}.keras"
        if "://" in model or not beside.is_file():
            return found
    else:
        beside = Path(model).expanduser().absolute()
        name = open_keras(beside).name
        saved = [path for path in (beside.with_name(name), beside.with_name(f"{name}.tar.gz")) if path.exists()]
        if not saved:
            raise ParameterError(
                f"model = {model}: the trained model is saved as a SavedModel, so {name} or {name}.tar.gz is needed "
                "beside the .keras file. Put it there."
            )
        found = open_model(str(saved[0]))
    record = open_keras(beside).manifest
    if (record["name"], record["source"]) != (found.name, found.manifest["source"]):
        raise PackagingError(
            f"{beside} is {record['name']}, made from another checkpoint than {found.name} beside it. Convert the "
            "checkpoint again with formats = 'saved_model, keras', or remove the .keras file."
        )
    return replace(found, keras_file=beside)
