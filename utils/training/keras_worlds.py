"""The model to train, in either Keras: a feature extractor, and a new linear head.

| | tf_keras | Keras 3, `.keras` file | Keras 3 without it |
|---|---|---|---|
| extractor | `hub.KerasLayer`, calls the SavedModel | Keras's own layers | `TFSMLayer`, calls `serving_default` |
| BatchNorm in training | by the batch, moves its statistics | the same | stays at its moving statistics |

All weights are trained in each of them. The last cell is what `TFSMLayer` cannot do: it hands no `training` flag on. An
MLP-Mixer has no BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from utils.artefact.opening import Pretrained
from utils.errors import PackagingError
from utils.export.saved_model import load_model, name_of
from utils.families import FAMILIES
from utils.keras_models import saving
from utils.training.settings import TrainingSettings

MOMENTUM = 0.9  # vit_jax/train.py of google-research/vision_transformer fine-tunes with it, and clips at norm 1
WEIGHT_DECAY = 1e-4  # AdamW's; SGD has none, as there
WARM_UP_SHARE = 0.1  # of all steps


@dataclass(frozen=True)
class Trainable:
    """A compiled Keras model, its head, and the `keras` module that all of it belongs to.

    layer: what the extractor is there, for people. backbone: its arrays as they are now, by name, as in the SavedModel.
    """

    keras: ModuleType
    model: Any
    layer: str
    backbone: Callable[[], dict[str, np.ndarray]]
    head: Any
    optimizer: Any

    def values(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """The backbone's arrays by their names in the checkpoint; the head's kernel [width, classes] and bias."""
        kernel, bias = (variable.numpy() for variable in variables_of(self.head))
        return self.backbone(), kernel, bias


def variables_of(part: Any) -> list[tf.Variable]:
    """TensorFlow's variables of a model, layer or optimizer: Keras 3 wraps them."""
    return [v if isinstance(v, tf.Variable) else getattr(v, "value", v) for v in part.variables]


def keras_module(world: str) -> ModuleType:
    """The module for "tf_keras" or "keras_3". Raises RuntimeError when Keras 3 runs on another backend."""
    if world == "tf_keras":
        import tf_keras

        return tf_keras
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Keras 3 runs on {keras.backend.backend()} here, and this notebook needs its TensorFlow backend: "
            "set KERAS_BACKEND=tensorflow before Python starts."
        )
    return keras


def learning_rate_schedule(keras: ModuleType, peak: float, steps: int) -> Any:
    """From 0 linearly to `peak` in the first tenth of the `steps`, then along a cosine to 0 at the last one."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warm_up), warmup_target=peak, warmup_steps=warm_up
    )


def build(
    settings: TrainingSettings, extractor: Pretrained, classes: int, steps: int, float16: bool = False
) -> Trainable:
    """The compiled model for images as the extractor's preprocessing makes them, to be trained for `steps` in all.

    The head starts at zero, as the Mixer authors' does: then the first steps change the head, not the backbone. Call
    it within the strategy's scope. float16: scale the loss, for `devices.set_mixed_precision(True)`.

    Raises PackagingError where a `.keras` file does not hold the SavedModel's weights.
    """
    keras = keras_module(settings.keras)
    keras.utils.set_random_seed(settings.seed)
    if settings.keras == "keras_3" and extractor.keras_file:
        inputs, features, layer, backbone = _native(extractor, settings.train_backbone)
    else:
        inputs, features, layer, backbone = _saved_model(keras, settings, extractor)
    head = keras.layers.Dense(classes, kernel_initializer="zeros", name="head")
    model = keras.Model(inputs, head(features), name=extractor.variant.family)
    schedule = learning_rate_schedule(keras, settings.learning_rate, steps)
    clip = {"global_clipnorm": settings.clip_norm} if settings.clip_norm else {}
    if settings.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY, **clip)
    else:
        optimizer = keras.optimizers.SGD(schedule, momentum=MOMENTUM, **clip)
    if float16:
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        # Keras 3 may choose XLA by itself, by version and device, with which depthwise convolutions are slow on a CPU.
        jit_compile=False,
    )
    optimizer.build(model.trainable_variables)  # its variables exist before a checkpoint is read into them
    return Trainable(keras, model, layer, backbone, head, optimizer)


_Backbone = tuple[Any, Any, str, Callable[[], dict[str, np.ndarray]]]  # inputs, features, layer, arrays


def _saved_model(keras: ModuleType, settings: TrainingSettings, extractor: Pretrained) -> _Backbone:
    size, folder = extractor.preprocessing.crop, str(extractor.folder)
    inputs = keras.Input((size, size, 3), name="inputs")
    if settings.keras == "tf_keras":
        from utils.machine.hub_compat import import_hub

        layer = import_hub().KerasLayer(folder, trainable=settings.train_backbone, name="backbone")
        features = layer(inputs)
    else:
        chosen = {"call_endpoint": "serving_default", "trainable": settings.train_backbone}
        layer = keras.layers.TFSMLayer(folder, name="backbone", **chosen)
        features = layer(inputs)["features"]

    def arrays() -> dict[str, np.ndarray]:
        return {variable.name.removesuffix(":0"): variable.numpy() for variable in variables_of(layer)}

    return inputs, features, type(layer).__name__, arrays


def _native(extractor: Pretrained, train_backbone: bool) -> _Backbone:
    """The `.keras` file's layers themselves, so that what is trained is a flat model, as a converted classifier is."""
    model, keys = saving.load(extractor.keras_file), FAMILIES[extractor.variant.family].layout.KERAS_NAMES
    model.trainable = train_backbone
    saved = {name_of(variable): variable.numpy() for variable in load_model(extractor.folder).variables}
    variables = {keys.key_of(variable.path): variable for variable in model.variables}
    if set(variables) != set(saved):
        raise PackagingError(f"{extractor.keras_file} and {extractor.folder} have not the same variables.")

    def arrays() -> dict[str, np.ndarray]:
        # The axes have one order in both; a depthwise kernel's axis of length one stands elsewhere.
        return {key: variable.value.numpy().reshape(saved[key].shape) for key, variable in variables.items()}

    if other := [key for key, array in arrays().items() if not np.array_equal(array, saved[key])]:
        raise PackagingError(
            f"{extractor.keras_file} has other weights than {extractor.folder}, in {other[0]}. Convert the checkpoint "
            "again with formats = 'saved_model, keras', or remove the .keras file."
        )
    return model.inputs[0], model.outputs[0], ".keras file", arrays
