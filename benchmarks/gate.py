"""The gate of the conversion notebooks around an export that is not saved: what the yardstick is measured with.

A `Subject` is a checkpoint with its truth and its source's own float32, computed once; any number of exports of it,
right or with a fault, are then judged.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf

from benchmarks.faults import NONE, Fault
from utils.export import jax_to_tf, saved_model
from utils.export.function import ExportedFunction
from utils.export.onnx_to_tf import export_tensorflow
from utils.export.torch_to_onnx import export_onnx
from utils.families.convmixer import source as convmixer
from utils.families.mlp_mixer import plain as plain_mixer, source as mlp_mixer
from utils.families.variants import OUTPUTS, Variant
from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.parity import comparison
from utils.parity.proof import Proof
from utils.parity.references import References
from utils.settings import preprocessing_for


class Subject:
    """One checkpoint: weights by canonical key, `head` "classification" or "fe", at `size` pixels.

    operations: of a Mixer's exports, "xla" or "plain".
    """

    def __init__(
        self,
        variant: Variant,
        weights: dict[str, np.ndarray],
        head: str = "classification",
        size: int | None = None,
        operations: str = "xla",
    ) -> None:
        self.variant, self.weights, self.head, self.operations = variant, weights, head, operations
        self.size = size or variant.image_size
        self.output = OUTPUTS[head]
        preprocessing = preprocessing_for(variant, self.size)
        photographs = {
            title: pillow_preprocess(photograph, preprocessing) for title, photograph in sample_photographs(2).items()
        }
        inputs = comparison.standard_inputs(self.size, self.size, 0, photographs)
        self.family = (_ConvMixer if variant.family == "convmixer" else _Mixer)(self)
        positions = variant.architecture.positions(self.size, self.size)
        self.proof = Proof(self.family.source, self.output, inputs, positions, References())

    def report(self, fault: Fault = NONE, training: bool = True) -> comparison.Report:
        """All rows for an export, with a fault planted or none; without `training` those of inference alone."""
        with fault.patches():  # around the export alone: the truth knows no fault
            exported = self.family.export(fault)
        loaded = _Loaded(exported, fault.ignores_training)
        return comparison.Report(self.proof.compare(saved_model.Candidate(loaded, exported.axes), training=training))


class _Loaded:
    """An export as if it had been loaded from disk."""

    def __init__(self, exported: ExportedFunction, ignores_training: bool) -> None:
        self._model = saved_model.ReusableModel(exported)
        self.variables, self.trainable_variables = self._model.variables, self._model.trainable_variables
        self._ignores_training = ignores_training

    def __call__(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._model.__call__(inputs, training=training and not self._ignores_training)


class _ConvMixer:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        weights = {key: value.copy() for key, value in subject.weights.items()}
        model = convmixer.build_convmixer(subject.variant.architecture, weights, subject.head)
        self.source = convmixer.Source(model)
        self.graph = export_onnx(model, subject.output).SerializeToString()

    def export(self, fault: Fault = NONE) -> ExportedFunction:
        import onnx

        graph = onnx.load_from_string(self.graph)
        weights = {key: value.copy() for key, value in self.subject.weights.items()}
        fault.plant(graph, weights)
        return export_tensorflow(graph, weights, self.subject.size, self.subject.output)


class _Mixer:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        model = mlp_mixer.build(subject.variant.architecture, subject.head)
        self.weights = mlp_mixer.select_parameters(model, subject.weights)
        self.source = mlp_mixer.Source(model, self.weights)

    def export(self, fault: Fault = NONE) -> ExportedFunction:
        architecture = self.subject.variant.architecture
        weights = {key: np.array(value) for key, value in self.weights.items()}
        fault.plant(None, weights)
        changed = replace(architecture, **fault.architecture(architecture))
        if self.subject.operations == "plain":
            return plain_mixer.export(changed, self.subject.head, weights)
        predict = mlp_mixer.predict_function(mlp_mixer.build(changed, self.subject.head))
        return jax_to_tf.export(
            lambda parameters, inputs: predict(parameters, fault.inputs(inputs)),
            weights,
            (self.subject.size, self.subject.size, 3),
            self.subject.output,
        )
