"""The model to train, in either Keras: a feature extractor's SavedModel, and a new linear head.

| | tf_keras | Keras 3 |
|---|---|---|
| layer | `hub.KerasLayer`, calls the model itself | `TFSMLayer`, calls the signature `serving_default` |
| all weights are trained | yes | yes |
| BatchNorm in training | normalises by the batch, and updates its moving statistics | stays at its moving statistics |

The last line is what Keras 3 cannot do: `TFSMLayer` hands no `training` flag on. An MLP-Mixer has no BatchNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import tensorflow as tf

from utils.training.settings import TrainingSettings

MOMENTUM = 0.9  # vit_jax/train.py of google-research/vision_transformer fine-tunes with it, and clips at norm 1
WEIGHT_DECAY = 1e-4  # AdamW's; SGD has none, as there
WARM_UP_SHARE = 0.1  # of all steps


@dataclass(frozen=True)
class Trainable:
    """A compiled Keras model, its two parts, and the `keras` module that all of it belongs to."""

    keras: ModuleType
    model: Any
    backbone: Any
    head: Any
    optimizer: Any

    def values(self) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
        """The backbone's arrays by their names in the checkpoint; the head's kernel [width, classes] and bias."""
        kernel, bias = (variable.numpy() for variable in variables_of(self.head))
        values = {variable.name.removesuffix(":0"): variable.numpy() for variable in variables_of(self.backbone)}
        return values, kernel, bias


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
            f"Keras 3 runs on {keras.backend.backend()} here, and SavedModels need its TensorFlow backend: "
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
    settings: TrainingSettings, folder: Path, image_size: int, classes: int, steps: int, float16: bool = False
) -> Trainable:
    """The compiled model for images float32 [B, image_size, image_size, 3], to be trained for `steps` in all.

    The head starts at zero, as the Mixer authors' does: then the first steps change the head, not the backbone. Call
    it within the strategy's scope. float16: scale the loss, for `devices.set_mixed_precision(True)`.
    """
    keras = keras_module(settings.keras)
    keras.utils.set_random_seed(settings.seed)
    inputs = keras.Input((image_size, image_size, 3), name="inputs")
    backbone, features = _backbone(keras, settings, folder, inputs)
    head = keras.layers.Dense(classes, kernel_initializer="zeros", name="head")
    model = keras.Model(inputs, head(features))
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
        # Keras 3 would choose XLA by itself, with which depthwise convolutions are slow on a CPU.
        jit_compile=False,
    )
    optimizer.build(model.trainable_variables)  # its variables exist before a checkpoint is read into them
    return Trainable(keras, model, backbone, head, optimizer)


def _backbone(keras: ModuleType, settings: TrainingSettings, folder: Path, inputs: Any) -> tuple[Any, Any]:
    if settings.keras == "tf_keras":
        from utils.machine.hub_compat import import_hub

        layer = import_hub().KerasLayer(str(folder), trainable=settings.train_backbone, name="backbone")
        return layer, layer(inputs)
    chosen = {"call_endpoint": "serving_default", "trainable": settings.train_backbone}
    layer = keras.layers.TFSMLayer(str(folder), name="backbone", **chosen)
    return layer, layer(inputs)["features"]
