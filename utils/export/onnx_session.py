"""An ONNX file run by ONNX Runtime, arrays in and arrays out. Needs that and NumPy alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from utils.errors import PackagingError

NAME = "onnxruntime"


class Unloadable(PackagingError):
    """ONNX Runtime does not load a file: it is damaged, or newer than this version reads."""


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime. PackagingError where it is missing."""
    try:
        import onnxruntime
    except ImportError as error:
        raise PackagingError(f"ONNX Runtime cannot be imported ({error}). Install it: pip install {NAME}") from error
    return onnxruntime


class Session:
    """A model with the inputs `inputs`, float32 [B, C, H, W], and one output, on the CPU, optimised as by default.

    model: its file, or its bytes. metadata: the texts by name that it carries. Raises Unloadable, which names it.
    """

    def __init__(self, model: Path | bytes) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors: what went wrong is in the exception
        given, name = (model, "the model") if isinstance(model, bytes) else (str(model), str(model))
        try:
            self._session = runtime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own kinds, by what is wrong
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
            raise Unloadable(
                f"{name}: ONNX Runtime {runtime.__version__} cannot load it: {reason}. Get the file again, or a newer "
                f"{NAME}."
            ) from error
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 [B, H, W, C], as everything here that is compared, -> [B, units]."""
        (output,) = self._session.run(None, {"inputs": np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))})
        return output
