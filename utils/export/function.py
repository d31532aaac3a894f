"""What every exporter returns and `saved_model` takes: a TensorFlow function with the variables it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class ExportedFunction:
    """A converted model, not yet saved.

    call: `(inputs, training)` -> float32 [B, units]; `inputs` is float32 [B, *input_shape], any B; `training` is a
        Python bool. Traceable by `tf.function` and differentiable by every trainable variable.
    variables: every variable that `call` reads, by its name in the source checkpoint.
    trainable: those of `variables` that fine-tuning may change.
    output: what comes out, "logits" or "features".
    units: the size of the last dimension of the output.
    maps: `(inputs)` -> float32 [B, h, w, C] by name: what comes out of the stem and of some blocks, in inference mode
        and of the same `variables`; None for a model that gives none. Differentiable as `call` is.
    input_shape: (height, width, channels) without the batch; None where any size will do.
    axes: for a variable stored in another axis order than its source: the source's axes in the variable's order, so
        that `numpy.transpose(source, axes[name])` is the variable's value (and a source gradient, the variable's).
    save_options: what `tf.saved_model.save` must be told for this function, or None.
    extra_versions: facts for the manifest about what can load the artefact.
    """

    call: Callable[[tf.Tensor, bool], tf.Tensor]
    variables: Mapping[str, tf.Variable]
    trainable: Mapping[str, tf.Variable]
    output: str
    units: int
    input_shape: tuple[int | None, int | None, int]
    axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    save_options: tf.saved_model.SaveOptions | None = None
    extra_versions: Mapping[str, str | int] = field(default_factory=dict)
    maps: Callable[[tf.Tensor], dict[str, tf.Tensor]] | None = None

    def without_variables(self) -> ExportedFunction:
        """What is known of it, and not what it computes with, which is as large as the model."""
        return replace(self, call=_gone, variables={}, trainable={}, maps=None)


def _gone(inputs: tf.Tensor, training: bool) -> tf.Tensor:
    raise RuntimeError("this function's variables were given up")
