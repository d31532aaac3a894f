"""The feature extractor that fine-tuning starts from: a published one, at the size of image that is trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from utils.artefact.opening import Pretrained, is_keras, open_keras, open_model
from utils.errors import PackagingError, ParameterError
from utils.families import FAMILIES
from utils.settings import check_whole_patches, preprocessing_for


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
    fixed = found.image_size
    if image_size not in (0, found.preprocessing.crop):
        if fixed:
            raise ParameterError(
                f"image_size is {image_size}; {found.name} takes images of {fixed} pixels only. Use 0 or {fixed}"
                + (", or convert a ConvMixer with image_size = 0." if FAMILIES[found.variant.family].any_size else ".")
            )
        check_whole_patches(found.variant, image_size, "its own size")
    own = replace(found.variant, preprocessing=found.preprocessing)
    return replace(found, preprocessing=preprocessing_for(own, image_size))


def _with_keras(model: str) -> Pretrained:
    """The SavedModel and, if it has one, its `.keras` file, whichever of both `model` is."""
    if is_keras(model):
        native = open_keras(Path(model).expanduser().absolute())
        places = (native.keras_file.with_name(native.name), native.keras_file.with_name(f"{native.name}.tar.gz"))
        if not any(place.exists() for place in places):
            raise ParameterError(
                f"model = {model}: the trained model is saved as a SavedModel, so {native.name} or "
                f"{native.name}.tar.gz is needed beside the .keras file. Put it there."
            )
        found = open_model(str(next(place for place in places if place.exists())))
    else:
        found = open_model(model)
        beside = None if "://" in model else Path(model).expanduser().absolute().parent / f"{found.name}.keras"
        if beside is None or not beside.is_file():
            return found
        native = open_keras(beside)
    made = {name: each.manifest["source"]["sha256"] for name, each in (("SavedModel", found), (".keras file", native))}
    if native.name != found.name or len(set(made.values())) > 1:
        raise PackagingError(
            f"{native.keras_file} is {native.name}, of a checkpoint with SHA-256 {made['.keras file']}, and the "
            f"SavedModel beside it {found.name}, of {made['SavedModel']}. Convert one checkpoint with formats = "
            "'saved_model, keras', or keep the two apart."
        )
    return replace(found, keras_file=native.keras_file)
