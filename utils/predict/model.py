"""A model of this project in any of its formats, as one function of prepared photographs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.artefact.lite_file import MODEL
from utils.artefact.opening import Pretrained, open_keras, open_lite, open_model, open_recorded
from utils.artefact.record import record_from_texts
from utils.errors import PackagingError, ParameterError
from utils.files import user_path
from utils.machine.quiet import quiet_imports

Run = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Model:
    """opened: what is known of it. sha256: of all its files. run: float32 [B, crop, crop, C] -> float32 [B, units].

    run_image: uint8 [1, H, W, 3] -> float32 [1, units], if the model prepares a photograph itself.
    """

    opened: Pretrained
    sha256: str
    run: Run
    run_image: Run | None = None


def load_model(model: str) -> Model:
    """Opens and loads a SavedModel's folder, tarball or address, a `.keras`, `.onnx` or `.tflite` file.

    Raises ParameterError for what is not there or takes no photographs, PackagingError for what is no artefact of this
    project, damaged or changed.
    """
    ending = "" if "://" in model else Path(model).suffix
    with quiet_imports():
        opened, *runs = _LOADERS.get(ending, _saved_model)(model)
    opened.preprocessing.check_photographs(opened.name)
    return Model(opened, hash_of(opened), *runs)


def hash_of(opened: Pretrained) -> str:
    """SHA-256 of all its files."""
    return hashlib.sha256(json.dumps(dict(opened.hashes)).encode()).hexdigest()


def _saved_model(model: str) -> tuple[Pretrained, Run, Run | None]:
    opened = open_model(model)
    import tensorflow as tf

    from utils.export import saved_model

    loaded = saved_model.load_model(opened.folder)
    found = saved_model.describe_signatures(loaded).get("serving_default")
    if found != (told := opened.manifest["signatures"]["serving_default"]):
        raise PackagingError(f"{model}: serving_default is {found}; its manifest says {told}. Convert it again.")
    signature, output = loaded.signatures.get("serving_image"), opened.output
    run_image = signature and (lambda image: signature(images=tf.constant(image))[output].numpy())
    return opened, saved_model.as_function(loaded), run_image


def _keras(model: str) -> tuple[Pretrained, Run]:
    opened = open_keras(path := user_path(model))
    from utils.keras_models import saving

    return opened, saving.load(path).predict_on_batch


def _onnx(model: str) -> tuple[Pretrained, Run]:
    from utils.export.onnx_session import Session

    if not (path := user_path(model)).is_file():
        raise ParameterError(f"model '{path}': there is no such file. Convert one with formats = 'saved_model, onnx'.")
    session = Session(path)
    return open_recorded(path, record_from_texts(session.metadata, path.name)), session


def _lite(model: str) -> tuple[Pretrained, Run]:
    opened = open_lite(user_path(model))
    from utils.verify.numbers import lite_function

    run = lite_function(opened.folder / MODEL, opened.preprocessing)
    return opened, lambda inputs: run(inputs)[opened.output]


_LOADERS = {".keras": _keras, ".onnx": _onnx, ".tflite": _lite}
