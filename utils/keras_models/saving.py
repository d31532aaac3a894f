"""A checkpoint's arrays into a Keras model, that into its `.keras` file, and back, on whatever backend Keras runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.errors import CheckpointError, PackagingError
from utils.families import FAMILIES
from utils.families.base import KerasNames
from utils.families.variants import Variant
from utils.files import written_whole
from utils.keras_models import archive

if TYPE_CHECKING:
    import keras

BACKENDS = ("tensorflow", "jax", "torch")  # as KERAS_BACKEND names them
MOMENTUM = 0.9  # BatchNorm's share of what was; PyTorch's 0.1 is the share of what is new
# By an architecture's `activation`, what `Activation` takes. To Keras "gelu" is the exact one. The other is here as a
# file has `keras.ops.gelu(x, approximate=True)`: a function of one's own would have to be there when it is loaded.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": {
        "module": "keras.src.ops.nn",
        "class_name": "Gelu",
        "config": {"approximate": True},
        "registered_name": "Gelu",
    },
    "relu": "relu",
}


def import_keras() -> ModuleType:
    """Keras 3. PackagingError where it, or the backend that was asked for, is missing."""
    try:
        import keras
    except (ImportError, ValueError) as error:  # the latter for a backend that Keras does not know
        backend = os.environ.get("KERAS_BACKEND", BACKENDS[0])
        raise PackagingError(
            f"Keras cannot be imported with the backend {backend!r} ({error}). Install keras and that framework, or "
            f"set KERAS_BACKEND to one that is there, of {', '.join(BACKENDS)}, before Python starts."
        ) from error
    return keras


def fill(
    model: keras.Model, arrays: Mapping[str, np.ndarray], keys: KerasNames, unused: Collection[str] = ()
) -> keras.Model:
    """Assigns every variable of `model` the array of its key, in Keras's axis order.

    Args:
        model: the Keras model.
        arrays: the checkpoint, by key.
        keys: how the model names them.
        unused: keys that this model has no use for.

    Returns:
        The same model.

    Raises:
        CheckpointError: names what is missing, left over, of another shape or another dtype; nothing was assigned.
    """
    wanted = {keys.key_of(variable.path): variable for variable in model.variables}
    found = {key: keys.to_export_layout(key, array) for key, array in arrays.items() if key in wanted}
    problems = [f"missing {key}" for key in wanted if key not in arrays]
    problems += [f"unexpected {key}" for key in arrays if key not in wanted and key not in unused]
    problems += [
        f"{key}: expected float32 {list(wanted[key].shape)}, found {array.dtype} {list(array.shape)}"
        for key, array in found.items()
        if (array.shape, array.dtype) != (tuple(wanted[key].shape), np.float32)
    ]
    if len(wanted) != len(model.variables):
        problems.append("two variables have one and the same key")
    if problems:
        raise CheckpointError(
            f"these arrays do not fit the Keras model {model.name!r}: {'; '.join(problems)}. Choose the variant and "
            "the head that they are of."
        )
    for key, array in found.items():
        wanted[key].assign(array)
    return model


def write(
    path: Path,
    variant: Variant,
    weights: Mapping[str, np.ndarray],
    head: str,
    image_size: int,
    record: Mapping[str, Any],
) -> Path:
    """Builds the variant's model, fills it and saves it.

    Args:
        path: of the `.keras` file.
        variant: the model's row.
        weights: arrays by canonical key.
        head: "classification" or "fe".
        image_size: of both sides, in pixels; 0 for any.
        record: what the file says of its model.

    Raises:
        CheckpointError: the weights do not fit.
    """
    model = FAMILIES[variant.family].models.keras_model(variant.architecture, weights, head, image_size)
    return save(model, path, record)


def save(model: keras.Model, path: Path, record: Mapping[str, Any]) -> Path:
    """Writes `path`, whole or not at all, with `record` in it; see `archive`. Does not catch OSError.

    The same model and record give the same bytes, by any process with the same versions.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        saved = Path(folder) / "saved.keras"
        import_keras().saving.save_model(model, saved)
        with written_whole(path) as target:
            archive.rewrite(saved, target, record)
    return path


def load(path: Path) -> keras.Model:
    """The model, to be called and trained; nothing that is in the file is executed.

    PackagingError names the file where it is damaged, or holds anything but the layers that these models are made of.
    """
    keras = import_keras()
    archive.check(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras's, h5py's and zipfile's own, by what is wrong; some print whole arrays
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise PackagingError(
            f"{path}: Keras {keras.__version__} on {keras.backend.backend()} cannot load it: {reason}. "
            "Get the file again."
        ) from error
