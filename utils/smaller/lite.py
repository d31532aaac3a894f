"""SavedModel -> TFLite, in TFLite's own operations alone: float32, float16 weights, or int8 weights (dynamic range)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from utils.errors import ConversionError
from utils.families.variants import Preprocessing
from utils.machine.quiet import quiet_imports


def convert_to_lite(folder: Path, storage: str, preprocessing: Preprocessing, scratch: Path) -> bytes:
    """The TFLite model of a SavedModel: `images`, levels of 0 to 255, float32 [B, H, W, C] -> what `folder` gives.

    Args:
        folder: the SavedModel.
        storage: "float32"; "float16", kernels as float16, cast at load; or "int8", kernels as int8 by output channel,
            with activations rounded to int8 as they come ("dynamic range").
        preprocessing: becomes part of the graph, because MediaPipe cannot normalise by channel.
        scratch: a folder for temporary files.

    Raises:
        ConversionError: TFLite lacks an operation.
    """
    with quiet_imports():  # the converter's log comes as TensorFlow's does on import
        converter = tf.lite.TFLiteConverter.from_saved_model(str(_of_levels(folder, preprocessing, scratch / "levels")))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # no Flex: those need TensorFlow itself
        if storage != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if storage == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        except Exception as error:
            raise ConversionError(f"{folder} could not be converted to TFLite: {error}") from error


def normalising(preprocessing: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """What is taken from levels, and what they are multiplied by then, float32 [C]: the constants in the graph."""
    return np.float32(preprocessing.mean), (1 / np.float64(preprocessing.std)).astype(np.float32)


def _of_levels(folder: Path, preprocessing: Preprocessing, path: Path) -> Path:
    """A SavedModel at `path` that takes levels of 0 to 255."""
    module = tf.Module()
    module.model = model = tf.saved_model.load(str(folder))
    default, (subtracted, scale) = model.signatures["serving_default"], normalising(preprocessing)
    shape = default.structured_input_signature[1]["inputs"].shape

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(shape, tf.float32, name="images")])
    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return default(inputs=(images - subtracted) * scale)

    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})
    return path


def operators(model: bytes) -> list[str]:
    """The operators of a TFLite model, in order; custom and Flex ones under their own names."""
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=plain)
    return [details["op_name"] for details in interpreter._get_ops_details()]


def rounded(weights: np.ndarray, storage: str) -> np.ndarray:
    """A kernel, float32 with output channels last, as `storage` keeps it; with "float16" any weights."""
    if storage == "float32":
        return weights
    if storage == "float16":
        with np.errstate(over="ignore"):  # infinity is noticed in the outputs
            return weights.astype(np.float16).astype(np.float32)
    # TFLite: symmetric, -127 to 127, a scale for each output channel.
    scale = np.abs(weights).max(axis=tuple(range(weights.ndim - 1))) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    return np.rint(weights / scale) * scale
