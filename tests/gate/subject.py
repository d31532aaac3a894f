"""The parity gate around an export that is not saved.

A `Subject` is a checkpoint with its truth and its source's own float32, computed once; any number of exports of it,
right or with a fault, are then judged.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import onnx
import tensorflow as tf

from gate.exports import proof_of
from gate.faults import NONE, Fault
from utils.export import saved_model, torch_to_onnx
from utils.export.function import ExportedFunction
from utils.families import FAMILIES
from utils.families.variants import OUTPUTS, Variant
from utils.parity.report import Report


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
        self.proof = proof_of(variant, _copies(weights), head, size)
        self._models, self._graph = FAMILIES[variant.family].models, None
        if variant.family == "convmixer":
            graph = torch_to_onnx.export_onnx(self.proof.source.model, OUTPUTS[head])
            self._graph = graph.SerializeToString()

    def report(self, fault: Fault = NONE, training: bool = True) -> Report:
        """All rows for an export, with a fault planted or none; without `training` those of inference alone."""
        exported = self.export(fault)
        loaded = _Loaded(exported, fault.ignores_training)
        return Report(self.proof.compare(saved_model.Candidate(loaded, exported.axes), training=training))

    def export(self, fault: Fault = NONE) -> ExportedFunction:
        """As a conversion does it, with the fault planted in the ONNX graph, the weights or the definition."""
        graph = self._graph and onnx.load_from_string(self._graph)
        weights = _copies(self.weights)
        fault.plant(graph, weights)
        source, architecture = self.proof.source, self.variant.architecture
        if graph is None:  # what is exported is the source's own definition
            source = self._models.build(replace(architecture, **fault.architecture(architecture)), weights, self.head)
        with fault.patches(), mock.patch.object(torch_to_onnx, "export_onnx", return_value=graph):
            return self._models.export(source, weights, self.size, self.operations).function


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
