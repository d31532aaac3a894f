"""A Keras model into its `.keras` file, and back, on whatever backend Keras runs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from utils.errors import PackagingError
from utils.files import written_whole
from utils.keras_models import archive
from utils.keras_models.conventions import BACKENDS

if TYPE_CHECKING:
    import keras


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


def save(model: keras.Model, path: Path, record: Mapping[str, Any]) -> Path:
    """Writes `path`, whole or not at all, with `record` in it; see `archive`. OSErrors pass through.

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
