"""A SavedModel whose weights are stored as float16, and are ordinary float32 variables again once it is loaded.

TensorFlow restores a variable in the type that it has, so a smaller type on disk needs a detour, which SavedModels
have for lookup tables: a resource may bring two functions of its own, one that says what to write into the checkpoint
and one that gets it back. Here they belong to a resource without content and cast the model's kernels; the kernels
themselves are left out. Every loader runs them: `tf.saved_model.load`, TF Hub, Keras, and the session-based one of
TensorFlow Serving.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils.errors import PackagingError
from utils.export.saved_model import make_reproducible

_LARGEST = float(np.finfo(np.float16).max)


def save_as_float16(model: Any, directory: str | os.PathLike) -> Path:
    """Writes a loaded SavedModel anew, with float16 kernels, and the same interface. `model` is used up.

    Kernels are more than 99 % of the bytes. Vectors stay float32: a moving variance may be smaller or larger than what
    float16 can hold. Raises PackagingError for a kernel that float16 cannot hold.
    """
    kernels = [variable for variable in model.variables if len(variable.shape) >= 2]
    for variable in kernels:
        largest = float(tf.reduce_max(tf.abs(variable)))
        if not largest <= _LARGEST:
            raise PackagingError(
                f"{variable.name} holds {largest:g}, and float16 ends at {_LARGEST:g}. Offer it as float32 only."
            )
        _leave_out(variable)
    model.float16_kernels = _Float16Storage(kernels)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(model, str(directory), signatures=model.signatures, options=options)
    make_reproducible(directory)
    return Path(directory)


class _Float16Storage(tf.saved_model.experimental.TrackableResource):
    """A resource without content of its own: in the checkpoint it stands for the kernels, as float16."""

    def __init__(self, kernels: Sequence[tf.Variable]) -> None:
        super().__init__(device="CPU:0")
        keys = [f"kernel_{i}" for i in range(len(kernels))]  # TensorFlow escapes dots and slashes one way only
        specs = {key: tf.TensorSpec(v.shape, tf.float16) for key, v in zip(keys, kernels, strict=True)}

        @tf.function(autograph=False)
        def to_checkpoint() -> dict[str, tf.Tensor]:
            return {key: tf.cast(variable, tf.float16) for key, variable in zip(keys, kernels, strict=True)}

        @tf.function(autograph=False)
        def from_checkpoint(tensors: dict[str, tf.Tensor]) -> None:
            for key, variable in zip(keys, kernels, strict=True):
                variable.assign(tf.cast(tensors[key], tf.float32))

        # Concrete functions, as `tf.saved_model.load` sets these on what it restores: saving maps what they capture.
        self._serialize_to_tensors = to_checkpoint.get_concrete_function()
        self._restore_from_tensors = from_checkpoint.get_concrete_function(specs)

    def _create_resource(self) -> tf.Tensor:
        return tf.raw_ops.VarHandleOp(dtype=tf.float16, shape=[], shared_name="float16_kernels", container="")

    def _initialize(self) -> None:
        """There is nothing to initialise."""

    def _destroy_resource(self) -> None:
        tf.raw_ops.DestroyResourceOp(resource=self.resource_handle, ignore_lookup_error=True)


def _leave_out(variable: tf.Variable) -> None:
    """Keeps a variable's own value out of the checkpoint, and that of the copy that saving makes of it."""
    export = variable._export_to_saved_model_graph

    def exported(object_map: Any, **options: Any) -> list[tf.Tensor]:
        handles = export(object_map=object_map, **options)
        object_map[variable]._serialize_to_tensors = dict
        return handles

    variable._serialize_to_tensors = dict
    variable._export_to_saved_model_graph = exported
