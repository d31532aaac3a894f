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
    """opened: what is known of it. sha256: of all its files. runtime: what computes it, with its version.

    run: float32 [B, crop, crop, C] -> float32 [B, units]. run_image: uint8 [1, H, W, 3] -> float32 [1, units], if the
    model prepares a photograph itself.
    """

    opened: Pretrained
    sha256: str
    runtime: str
    run: Run
    run_image: Run | None = None


def load_model(model: str) -> Model:
    """Opens and loads a SavedModel's folder, tarball or address, a `.keras`, `.onnx` or `.tflite` file.

    Raises ParameterError for what is not there or takes no photographs, PackagingError for what is no artefact of this
    project, damaged or changed.
    """
    ending = "" if "://" in model else Path(model).suffix
    with quiet_imports():
        opened, runtime, *runs = _LOADERS.get(ending, _saved_model)(model)
    opened.preprocessing.check_photographs(opened.name)
    sha256 = hashlib.sha256(json.dumps(dict(opened.hashes)).encode()).hexdigest()
    return Model(opened, sha256, runtime, *runs)


def _saved_model(model: str) -> tuple[Pretrained, str, Run, Run | None]:
    opened = open_model(model)
    import tensorflow as tf

    from utils.export import saved_model

    loaded = saved_model.load_model(opened.folder)
    found = saved_model.describe_signatures(loaded).get("serving_default")
    if found != (told := opened.manifest["signatures"]["serving_default"]):
        raise PackagingError(f"{model}: serving_default is {found}; its manifest says {told}. Convert it again.")
    signature, output = loaded.signatures.get("serving_image"), opened.output
    run_image = signature and (lambda image: signature(images=tf.constant(image))[output].numpy())
    return opened, f"TensorFlow {tf.__version__}", saved_model.as_function(loaded), run_image


def _keras(model: str) -> tuple[Pretrained, str, Run]:
    opened = open_keras(path := user_path(model))
    import keras

    from utils.keras_models import saving

    runtime = f"Keras {keras.__version__} on {keras.backend.backend()}"
    return opened, runtime, saving.load(path).predict_on_batch


def _onnx(model: str) -> tuple[Pretrained, str, Run]:
    import onnxruntime

    from utils.export.onnx_session import Session

    if not (path := user_path(model)).is_file():
        raise ParameterError(f"model '{path}': there is no such file. Convert one with formats = 'saved_model, onnx'.")
    session = Session(path)
    opened = open_recorded(path, record_from_texts(session.metadata, path.name))
    return opened, f"ONNX Runtime {onnxruntime.__version__}", session


def _lite(model: str) -> tuple[Pretrained, str, Run]:
    opened = open_lite(user_path(model))
    from utils.verify.numbers import lite_function, lite_runtime

    run = lite_function(opened.folder / MODEL, opened.preprocessing)
    return opened, lite_runtime()[1], lambda inputs: run(inputs)[opened.output]


_LOADERS = {".keras": _keras, ".onnx": _onnx, ".tflite": _lite}
