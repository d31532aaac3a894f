"""From an exported function to a reusable SavedModel, and back.

The interface is TF Hub's "reusable SavedModel": `__call__(inputs, training)`, `variables`, `trainable_variables`,
`regularization_losses`, and signatures for serving.
"""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from utils.errors import PackagingError
from utils.export.function import ExportedFunction

MAPS = "serving_features"  # the signature of maps

# Gets the model's `serving_default`; gives further signatures, by name.
ImageSignatures = Callable[[Callable], Mapping[str, tf.types.experimental.ConcreteFunction]]


class ReusableModel(tf.__internal__.tracking.AutoTrackable):
    """What `tf.saved_model.save` writes: a trackable object that is neither a Keras model nor a tf.Module.

    A Keras 3 model would store every weight twice, and tf.Module has properties where `hub.KerasLayer` looks for
    the attributes `variables` and `trainable_variables` of the loaded object.
    """

    def __init__(self, exported: ExportedFunction) -> None:
        self.variables = list(exported.variables.values())
        self.trainable_variables = list(exported.trainable.values())
        self.regularization_losses = []
        inputs = tf.TensorSpec([None, *exported.input_shape], tf.float32, name="inputs")
        # The model is traced here, once a mode. Saving traces `__call__` again, which then is a call of one of these.
        modes = {training: _traced(exported, training, inputs) for training in (False, True)}
        # An attribute, not a method: TensorFlow would trace a bound method once more for every look at it.
        self.__call__ = tf.function(lambda inputs, training=False: modes[bool(training)](inputs), autograph=False)
        for training in modes:
            self.__call__.get_concrete_function(inputs, training=training)


def _traced(
    exported: ExportedFunction, training: bool, inputs: tf.TensorSpec
) -> tf.types.experimental.ConcreteFunction:
    return tf.function(lambda inputs: exported.call(inputs, training), autograph=False).get_concrete_function(inputs)


def save_model(
    exported: ExportedFunction,
    directory: str | os.PathLike,
    image_signatures: ImageSignatures | None = None,
) -> Path:
    """Write `exported` as a SavedModel folder, complete or not at all: written beside, then renamed.

    image_signatures: gets the model's inference function (float32 NHWC -> output) and gives further signatures by
    name, such as `serving_image`. A function with maps has them in a signature of its own, `MAPS`.

    The same model saved by two processes, each as its first, gives the same bytes (TensorFlow numbers functions by
    process, so a second one differs in their names). Raises PackagingError when the folder exists or cannot be written
    (no permission, no space left).
    """
    directory = Path(directory)
    if directory.exists():
        raise PackagingError(f"{directory} exists already; remove it or choose another output_dir")
    beside = directory.with_name(f".{directory.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with _without_collections():
            model = ReusableModel(exported)
            serving = _serving_default(model, exported)
            signatures = {"serving_default": serving, **(image_signatures(serving) if image_signatures else {})}
            if exported.maps:  # last, so that all else is what it is without
                signatures[MAPS] = _serving_features(exported)
            tf.saved_model.save(model, str(beside), signatures=signatures, options=exported.save_options)
        make_reproducible(beside)
        os.replace(beside, directory)
    except (OSError, tf.errors.OpError) as error:
        raise PackagingError(f"{directory} could not be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return directory


def make_reproducible(directory: str | os.PathLike) -> None:
    """Takes out of a SavedModel folder, just written, what another process would have written otherwise.

    Two things: the order of the graph's functions, which is that of a hash table whose place in memory is random; and
    a random number in the fingerprint, which one takes the place of that follows from the hashes there. These are of
    the graph, the signatures, the objects and the variables' checksums; a number of 128 bits it stays.
    """
    # Imported here: where a model is only read, it may be by a TensorFlow that has these elsewhere.
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.saved_model import fingerprinting_utils

    directory = Path(directory)
    path = directory / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    for meta_graph in saved.meta_graphs:
        meta_graph.graph_def.library.function.sort(key=lambda function: function.signature.name)
    path.write_bytes(saved.SerializeToString(deterministic=True))

    fingerprinting_utils.write_fingerprint(str(directory))  # it has hashes of what is changed now
    path = directory / "fingerprint.pb"
    fingerprint = FingerprintDef.FromString(path.read_bytes())
    fingerprint.ClearField("uuid")
    digest = hashlib.sha256(fingerprint.SerializeToString(deterministic=True)).digest()
    fingerprint.uuid = str(int.from_bytes(digest[:16], "big"))
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


@contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage collection: tracing makes a million objects that stay, which it would look through again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _serving_default(model: ReusableModel, exported: ExportedFunction) -> tf.types.experimental.ConcreteFunction:
    """float32 NHWC `inputs` -> {"logits" or "features": float32 [B, units]}, BatchNorm at its moving statistics."""

    @tf.function(autograph=False)
    def serving_default(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {exported.output: model.__call__(inputs, training=False)}

    return serving_default.get_concrete_function(
        tf.TensorSpec([None, *exported.input_shape], tf.float32, name="inputs")
    )


def _serving_features(exported: ExportedFunction) -> tf.types.experimental.ConcreteFunction:
    """float32 NHWC `inputs` -> float32 [B, h, w, C] by name: "stem", "block_0" and so on."""

    @tf.function(autograph=False)
    def serving_features(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return exported.maps(inputs)

    return serving_features.get_concrete_function(
        tf.TensorSpec([None, *exported.input_shape], tf.float32, name="inputs")
    )


def load_model(directory: str | os.PathLike) -> Any:
    """The reloaded SavedModel. Raises PackagingError, naming the folder, when it is not one."""
    gc.collect()  # what was saved may be as large, and given up; functions of TensorFlow lie in cycles
    try:
        return tf.saved_model.load(str(directory))
    except (OSError, tf.errors.OpError, ValueError) as error:
        raise PackagingError(f"{directory} is not a SavedModel that this TensorFlow can load: {error}") from error


def as_function(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The loaded `model` as a function of float32 NHWC arrays, for comparison with its source."""
    return lambda inputs: model(tf.constant(inputs), training=False).numpy()


class Candidate:
    """A loaded model, arrays in and arrays out, as `utils.parity.proof` compares it with its source.

    axes: by variable, the order in which the source's axes come here; see `ExportedFunction`.
    """

    def __init__(self, model: Any, axes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self.model, self._axes = model, axes or {}

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Float32 [B, H, W, C] -> [B, units], in inference mode."""
        return as_function(self.model)(inputs)

    def maps(self, inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Float32 [B, H, W, C] -> what the signature `MAPS` gives, float32 [B, h, w, C] by name; {} without one."""
        if MAPS not in self.model.signatures:
            return {}
        return {name: each.numpy() for name, each in self.model.signatures[MAPS](inputs=tf.constant(inputs)).items()}

    def variables(self) -> dict[str, np.ndarray]:
        """Every variable, by the name that it has in the source."""
        return {name_of(variable): variable.numpy() for variable in self.model.variables}

    def gradients(self, inputs: np.ndarray, training: bool = False) -> dict[str, np.ndarray | None]:
        """Gradients of `sum(output ** 2) / batch` by every trainable variable, by its name, for float32 [B, H, W, C].

        A variable that the output does not depend on gets None.
        """
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(self.model(tf.constant(inputs), training=training) ** 2) / len(inputs)
        found = tape.gradient(loss, variables)
        arrays = {}
        for index, variable in enumerate(variables):
            # `numpy` copies: each tensor goes at once, or all would be there twice.
            gradient, found[index] = found[index], None
            arrays[name_of(variable)] = None if gradient is None else gradient.numpy()
        return arrays

    def training_pass(self, inputs: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Output with `training=True` for float32 [B, H, W, C], and the statistics it leaves, by variable name.

        The loaded model's own statistics are put back afterwards.
        """
        trainable = {name_of(v) for v in self.model.trainable_variables}
        with _put_back([v for v in self.model.variables if name_of(v) not in trainable]) as statistics:
            output = self.model(tf.constant(inputs), training=True).numpy()
            return output, {name_of(v): v.numpy() for v in statistics}

    @contextmanager
    def scaled_variables(self, factor: Callable[[str], float]) -> Iterator[None]:
        """Inside, each variable is multiplied by `factor` of its name; afterwards it is as it was."""
        with _put_back([v for v in self.model.variables if factor(name_of(v)) != 1]) as changed:
            for variable in changed:
                variable.assign(variable * np.float32(factor(name_of(variable))))
            yield

    def to_export_layout(self, name: str, array: np.ndarray) -> np.ndarray:
        """The source's array of that name, in this model's axis order."""
        return array.transpose(self._axes[name]) if name in self._axes else array

    def expected_statistics(
        self, statistics: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], count: int
    ) -> dict[str, np.ndarray]:
        """The same: a SavedModel leaves the statistics that its source leaves."""
        return dict(statistics)


@contextmanager
def _put_back(variables: list[tf.Variable]) -> Iterator[list[tf.Variable]]:
    """Afterwards these have the values that they had before."""
    before = [v.numpy() for v in variables]
    try:
        yield variables
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


def name_of(variable: tf.Variable) -> str:
    """The variable's name in the source checkpoint."""
    return variable.name.removesuffix(":0")


def describe_signatures(model: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Each signature's `inputs` and `outputs`: {argument: {"dtype": "float32", "shape": [None, 224, 224, 3]}}."""

    def describe(specs: Mapping[str, tf.TensorSpec]) -> dict[str, Any]:
        shapes = {name: None if spec.shape.rank is None else spec.shape.as_list() for name, spec in specs.items()}
        return {name: {"dtype": specs[name].dtype.name, "shape": shapes[name]} for name in sorted(specs)}

    return {
        name: {
            "inputs": describe(signature.structured_input_signature[1]),
            "outputs": describe(signature.structured_outputs),
        }
        for name, signature in model.signatures.items()
    }
