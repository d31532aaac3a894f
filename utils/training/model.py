"""The model to train, in either Keras: a published feature extractor, and a new linear head.

| | tf_keras | Keras 3, `.keras` file | Keras 3 without it |
|---|---|---|---|
| extractor | `hub.KerasLayer`, calls the SavedModel | Keras's own layers | `TFSMLayer`, calls `serving_default` |
| `batch_norm = "batch"` | normalises by the batch, moves its statistics | the same | not possible |

All weights are trained in each of them, and by default BatchNorm stays at its moving statistics. `TFSMLayer` can do
nothing else: it hands no `training` flag on. An MLP-Mixer has no BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from utils.artefact.opening import Pretrained, is_keras, open_keras, open_model
from utils.errors import PackagingError, ParameterError
from utils.export import saved_model
from utils.families import FAMILIES
from utils.keras_models.candidate import load_candidate
from utils.settings import check_whole_patches, preprocessing_for
from utils.training.settings import TrainingSettings

MOMENTUM = 0.9  # vit_jax/train.py of google-research/vision_transformer fine-tunes with it, and clips at norm 1
WEIGHT_DECAY = 1e-4  # AdamW's; SGD has none, as there
WARM_UP_SHARE = 0.1  # of all steps

Arrays = dict[str, np.ndarray]  # by name in the checkpoint, as in the SavedModel


def open_extractor(model: str, image_size: int, keras: str = "tf_keras") -> Pretrained:
    """The extractor behind the notebook's `model`, as `open_model`, with the preprocessing for `image_size` pixels.

    keras: which trains it. For "keras_3" the `.keras` file is found too, if `model` is one or one lies beside it. The
    SavedModel is always needed, since the result is saved as one.

    Raises ParameterError, besides what `open_model` raises, for a classifier, for one that takes no photographs, for an
    `image_size` that the model does not take (0 is its own size), and for a `.keras` file without the SavedModel beside
    it.
    """
    found = _with_keras(model) if keras == "keras_3" else open_model(model)
    if found.output != "features":
        raise ParameterError(
            f"model = {model} is a classifier ({found.name}), and fine-tuning puts a head of its own on a "
            f'feature extractor. Convert the same checkpoint with head = "fe", and pass that.'
        )
    found.preprocessing.check_photographs(found.name)
    fixed = found.image_size
    if image_size not in (0, found.preprocessing.crop):
        if fixed:
            raise ParameterError(
                f"image_size is {image_size}; {found.name} takes images of {fixed} pixels only. Use 0 or {fixed}"
                + (", or convert a ConvMixer with image_size = 0." if FAMILIES[found.variant.family].any_size else ".")
            )
        check_whole_patches(found.variant, image_size, "its own size")
    own = replace(found.variant, preprocessing=found.preprocessing)
    return replace(found, preprocessing=preprocessing_for(own, image_size))


def _with_keras(model: str) -> Pretrained:
    """The SavedModel and, if it has one, its `.keras` file, whichever of both `model` is."""
    path = Path(model).expanduser().absolute()
    if not is_keras(model):
        found = open_model(model)
        path = path.with_name(f"{found.name}.keras")
        if "://" in model or not path.is_file():
            return found
    else:
        places = [path.with_suffix(ending) for ending in ("", ".tar.gz") if path.with_suffix(ending).exists()]
        if not places:
            raise ParameterError(
                f"model = {model}: the trained model is saved as a SavedModel, so {path.stem} or {path.stem}.tar.gz is "
                "needed beside the .keras file. Put it there."
            )
        found = open_model(str(places[0]))
    return replace(found, keras_file=open_keras(path).keras_file)


@dataclass(frozen=True)
class Trainable:
    """A Keras model of extractor and head, and the `keras` module that all of it belongs to.

    features: the extractor alone. classifier: the same layers as `model`, flat, for a `.keras` file.
    head: the Dense layer. layer: what the extractor is there, for people. batch_norm: whether in training BatchNorm
    normalises by the batch. arrays: all of the arrays as they are now.
    """

    keras: ModuleType
    model: Any
    features: Any
    classifier: Any
    head: Any
    layer: str
    batch_norm: bool
    arrays: Callable[[], Arrays]

    def extract(self, images: np.ndarray) -> np.ndarray:
        """Features, float32 [B, units], of float32 [B, crop, crop, C], in inference mode."""
        # `predict_on_batch` would give every replica the whole batch.
        return np.asarray(self.features.predict(images, batch_size=len(images), verbose=0))


def variables_of(part: Any) -> list[tf.Variable]:
    """TensorFlow's variables of a model, layer or optimizer: Keras 3 wraps them."""
    return [v if isinstance(v, tf.Variable) else getattr(v, "value", v) for v in part.variables]


def learning_rate_schedule(keras: ModuleType, peak: float, steps: int) -> Any:
    """From 0 linearly to `peak` in the first tenth of the `steps`, then along a cosine to 0 at the last one."""
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    return keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warm_up), warmup_target=peak, warmup_steps=warm_up
    )


def build(settings: TrainingSettings, extractor: Pretrained, classes: int) -> Trainable:
    """The model, with a head of zeros. Call it within the strategy's scope.

    Args:
        settings: how it is trained, without "auto".
        extractor: as `open_extractor` gives it; its preprocessing says which images the model takes.
        classes: how many.

    Raises:
        PackagingError: if a `.keras` file does not hold the SavedModel's weights.
    """
    if settings.keras == "tf_keras":
        import tf_keras as keras
    else:
        import keras
    keras.utils.set_random_seed(settings.seed)
    backbone = (_native if settings.keras == "keras_3" and extractor.keras_file else _saved_model)(
        keras, settings, extractor
    )
    head = keras.layers.Dense(classes, kernel_initializer="zeros", name="head")
    model = keras.Model(backbone.inputs, head(backbone.features), name=extractor.variant.family)
    flat = keras.Model(backbone.flat_inputs, head(backbone.flat_features), name=extractor.variant.family)
    head_keys = FAMILIES[extractor.variant.family].head_keys

    def arrays() -> Arrays:
        return backbone.arrays() | {key: v.numpy() for key, v in zip(head_keys, variables_of(head), strict=True)}

    features = keras.Model(backbone.inputs, backbone.features)
    return Trainable(keras, model, features, flat, head, backbone.layer, backbone.batch_norm, arrays)


def compile_model(trainable: Trainable, settings: TrainingSettings, steps: int, float16: bool = False) -> Any:
    """Compiles the model, within the strategy's scope; returns the learning rate by step.

    Args:
        trainable: as `build` gives it.
        settings: the optimizer's, without "auto".
        steps: of the whole training.
        float16: scale the loss, for `devices.set_mixed_precision(True)`.
    """
    keras, model = trainable.keras, trainable.model
    schedule = learning_rate_schedule(keras, settings.learning_rate, steps)
    clip = {"global_clipnorm": settings.clip_norm} if settings.clip_norm else {}
    if settings.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY, **clip)
        # Biases and normalisations, all of one axis, do not decay, as in timm and big_vision.
        optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
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
    return schedule


class _Backbone(NamedTuple):
    """Tensors of the model to train and of the flat one, which may be the same; the rest as of `Trainable`."""

    inputs: Any
    features: Any
    flat_inputs: Any
    flat_features: Any
    layer: str
    batch_norm: bool
    arrays: Callable[[], Arrays]


def _saved_model(keras: ModuleType, settings: TrainingSettings, extractor: Pretrained) -> _Backbone:
    size, channels, folder = extractor.preprocessing.crop, extractor.preprocessing.channels, str(extractor.folder)
    inputs, whole = keras.Input((size, size, channels), name="inputs"), settings.train == "all"
    by_batch = whole and settings.batch_norm == "batch" and settings.keras == "tf_keras"
    if settings.keras == "tf_keras":
        from utils.machine.hub_compat import import_hub

        layer = import_hub().KerasLayer(folder, trainable=whole, name="backbone")
        features = layer(inputs) if by_batch else layer(inputs, training=False)
    else:
        layer = keras.layers.TFSMLayer(folder, name="backbone", call_endpoint="serving_default", trainable=whole)
        features = layer(inputs)["features"]

    def arrays() -> Arrays:
        return {saved_model.name_of(variable): variable.numpy() for variable in variables_of(layer)}

    return _Backbone(inputs, features, inputs, features, type(layer).__name__, by_batch, arrays)


def _native(keras: ModuleType, settings: TrainingSettings, extractor: Pretrained) -> _Backbone:
    """The `.keras` file's layers themselves, so that what is trained is a flat model, as a converted classifier is."""
    loaded = load_candidate(extractor.keras_file, extractor.variant.family)
    loaded.model.trainable = whole = settings.train == "all"
    saved = saved_model.Candidate(saved_model.load_model(extractor.folder)).variables()

    def arrays() -> Arrays:
        # The axes have one order in both; a depthwise kernel's axis of length one stands elsewhere.
        return {key: array.reshape(saved[key].shape) for key, array in loaded.variables().items()}

    if set(loaded.variables()) != set(saved) or not all(np.array_equal(arrays()[key], saved[key]) for key in saved):
        raise PackagingError(
            f"{extractor.keras_file} has other weights than {extractor.folder}. Convert the checkpoint again with "
            "formats = 'saved_model, keras', or remove the .keras file."
        )
    flat = loaded.model.inputs[0], loaded.model.outputs[0]
    if whole and settings.batch_norm == "batch":
        return _Backbone(*flat, *flat, ".keras file", True, arrays)

    class MovingStatistics(keras.layers.Layer):
        """Calls the model as in inference, whatever `fit` says: a model within a model would be told that it trains."""

        def __init__(self) -> None:
            super().__init__(name="backbone")
            self.model = loaded.model

        def call(self, inputs: Any) -> Any:
            return self.model(inputs, training=False)

    inputs = keras.Input(loaded.model.inputs[0].shape[1:], name="inputs")
    return _Backbone(inputs, MovingStatistics()(inputs), *flat, ".keras file", False, arrays)
