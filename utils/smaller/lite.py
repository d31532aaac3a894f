"""SavedModel -> TFLite, in TFLite's own operations alone: float32, float16 weights, or int8 weights (dynamic range)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from utils.errors import ConversionError
from utils.machine.quiet import quiet_imports


def convert_to_lite(folder: Path, storage: str) -> bytes:
    """The TFLite model of a SavedModel's `serving_default`, for any batch size.

    storage: "float32"; "float16", kernels as float16, cast at load; or "int8", kernels as int8 by output channel, with
    activations rounded to int8 as they come ("dynamic range"). Raises ConversionError for operations that TFLite does
    not have.
    """
    with quiet_imports():  # the converter's log comes as TensorFlow's does on import
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]  # no Flex: those need TensorFlow itself
        if storage != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if storage == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        except Exception as error:
            raise ConversionError(f"{folder} could not be converted to TFLite: {error}") from error


def operators(model: bytes) -> list[str]:
    """The operators of a TFLite model, in order; custom and Flex ones under their own names."""
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with quiet_imports():  # TensorFlow announces that the interpreter moves to the package ai_edge_litert
        interpreter = tf.lite.Interpreter(model_content=model, experimental_op_resolver_type=plain)
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
