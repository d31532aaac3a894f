"""The parity gate around an export that is not saved.

A `Subject` is a checkpoint with its truth and its source's own float32, computed once; any number of exports of it,
right or with a fault, are then judged.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import tensorflow as tf

from gate.faults import NONE, Fault
from utils.export import jax_to_tf, saved_model
from utils.export.function import ExportedFunction
from utils.families import FAMILIES
from utils.families.variants import OUTPUTS, Variant
from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.parity.inputs import standard_inputs
from utils.parity.proof import Proof
from utils.parity.references import References
from utils.parity.report import Report
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
        self.source = FAMILIES[variant.family].models.build(variant.architecture, _copies(weights), head)
        preprocessing = preprocessing_for(variant, self.size)
        photographs = {
            title: pillow_preprocess(photograph, preprocessing) for title, photograph in sample_photographs(2).items()
        }
        inputs = standard_inputs(self.size, self.size, 0, photographs)
        positions = variant.architecture.positions(self.size, self.size)
        self.proof = Proof(self.source, OUTPUTS[head], inputs, positions, References())

    def report(self, fault: Fault = NONE, training: bool = True) -> Report:
        """All rows for an export, with a fault planted or none; without `training` those of inference alone."""
        with fault.patches():  # around the export alone: the truth knows no fault
            exported = self.export(fault)
        loaded = _Loaded(exported, fault.ignores_training)
        return Report(self.proof.compare(saved_model.Candidate(loaded, exported.axes), training=training))

    def export(self, fault: Fault = NONE) -> ExportedFunction:
        """As a conversion does it, with the fault planted in the ONNX graph, the weights or the definition."""
        return (self._export_convmixer if self.variant.family == "convmixer" else self._export_mixer)(fault)

    def _export_convmixer(self, fault: Fault) -> ExportedFunction:
        import onnx

        from utils.export.onnx_to_tf import export_tensorflow

        graph, weights = onnx.load_from_string(self._graph), _copies(self.weights)
        fault.plant(graph, weights)
        return export_tensorflow(graph, weights, self.size, OUTPUTS[self.head])

    @cached_property
    def _graph(self) -> bytes:
        from utils.export.torch_to_onnx import export_onnx

        return export_onnx(self.source.model, OUTPUTS[self.head]).SerializeToString()

    def _export_mixer(self, fault: Fault) -> ExportedFunction:
        from utils.families.mlp_mixer import plain, source

        weights = _copies(self.source.variables())
        fault.plant(None, weights)
        architecture = self.variant.architecture
        architecture = replace(architecture, **fault.architecture(architecture))
        if self.operations == "plain":
            return plain.export(architecture, self.head, weights)
        predict = source.predict_function(source.build(architecture, self.head))
        return jax_to_tf.export(
            lambda parameters, inputs: predict(parameters, fault.inputs(inputs)),
            weights,
            (self.size, self.size, 3),
            OUTPUTS[self.head],
        )


def _copies(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in arrays.items()}


class _Loaded:
    """An export as if it had been loaded from disk."""

    def __init__(self, exported: ExportedFunction, ignores_training: bool) -> None:
        self._model = saved_model.ReusableModel(exported)
        self.variables, self.trainable_variables = self._model.variables, self._model.trainable_variables
        self._ignores_training = ignores_training

    def __call__(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._model.__call__(inputs, training=training and not self._ignores_training)
