"""The distributed .onnx file: PyTorch's graph with its weights and metadata, in NCHW, as users and runtimes expect."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from utils.errors import ConversionError, PackagingError
from utils.export.onnx_session import Session
from utils.files import written_whole


def write(
    path: Path, graph: onnx.ModelProto, weights: Mapping[str, np.ndarray], image_size: int, metadata: Mapping[str, str]
) -> Path:
    """Writes `path`, whole or not at all; the same arguments give the same bytes. Does not catch OSError.

    Args:
        path: the file.
        graph: as from `export_onnx`, channels first.
        weights: an array for each of its further inputs, whose initial value that becomes.
        image_size: of both sides, 0 for any.
        metadata: texts by name, of which `name` is the model's.

    Raises:
        ConversionError: as `checked_weights`, or ONNX's checker refuses the model.
    """
    model = copy.deepcopy(graph)
    for name, array in checked_weights(graph, weights).items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    del model.graph.input[1:]
    if image_size:
        for side in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            side.dim_value = image_size
    model.graph.name = metadata.get("name", path.stem)
    onnx.helper.set_model_props(model, dict(metadata))
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"{path.name} is no sound ONNX model: {error}") from error
    with written_whole(path) as file:
        file.write(model.SerializeToString(deterministic=True))
    return path


def checked_weights(graph: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The array of every input but the first, the image.

    ConversionError for one that is missing, of another shape or, as by accident, not float32.
    """
    found = {}
    for value in graph.graph.input[1:]:
        expected, array = [dim.dim_value for dim in value.type.tensor_type.shape.dim], weights.get(value.name)
        if array is None or list(array.shape) != expected or array.dtype != np.float32:
            kind = "missing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ConversionError(f"{value.name} is {kind}; the ONNX graph reads float32 {expected}.")
        found[value.name] = array
    return found


class Candidate:
    """The file's model, run by ONNX Runtime, as `utils.parity.proof` compares it with its source, inference alone.

    PackagingError for what is no whole ONNX file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._model = onnx.load(path)
            onnx.checker.check_model(self._model, full_check=True)
        except Exception as error:  # protobuf's and ONNX's own
            raise PackagingError(f"{path}: it is no sound ONNX file: {error}. Convert it again.") from error
        self._session = Session(path)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 [B, H, W, C] -> [B, units]."""
        return self._session(inputs)

    def variables(self) -> dict[str, np.ndarray]:
        """Every initial value, by its name."""
        return {tensor.name: numpy_helper.to_array(tensor) for tensor in self._model.graph.initializer}

    def to_export_layout(self, name: str, array: np.ndarray) -> np.ndarray:
        """The same: the file has the source's axis order."""
        return array

    @contextmanager
    def scaled_variables(self, factor: Callable[[str], float]) -> Iterator[None]:
        """Inside, each variable is multiplied by the factor of its name."""
        before, changed = self._session, copy.deepcopy(self._model)
        for tensor in changed.graph.initializer:
            if factor(tensor.name) != 1:
                array = numpy_helper.to_array(tensor) * np.float32(factor(tensor.name))
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        self._session = Session(changed.SerializeToString())
        try:
            yield
        finally:
            self._session = before
