"""The gate of the conversion notebooks around an export that is not saved: what the yardstick is measured with.

A `Subject` is a checkpoint with its truth and its source's own float32, computed once; any number of exports of it,
right or with a fault, are then judged.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.faults import Fault
from utils.export import jax_to_tf, saved_model
from utils.export.function import ExportedFunction
from utils.export.onnx_to_tf import export_tensorflow
from utils.export.torch_to_onnx import export_onnx
from utils.images.photographs import pillow_preprocess, sample_photographs
from utils.models import convmixer, mlp_mixer
from utils.models.variants import Variant
from utils.notebook.parameters import preprocessing_for
from utils.parity import comparison

Model = Callable[[np.ndarray], np.ndarray]


class Subject:
    """One checkpoint: weights by canonical key, `head` "classification" or "fe", at `size` pixels."""

    def __init__(
        self, variant: Variant, weights: dict[str, np.ndarray], head: str = "classification", size: int | None = None
    ) -> None:
        self.variant, self.weights, self.head = variant, weights, head
        self.size = size or variant.image_size
        self.output = "logits" if head == "classification" else "features"
        preprocessing = preprocessing_for(variant, self.size)
        photographs = {
            title: pillow_preprocess(photograph, preprocessing) for title, photograph in sample_photographs().items()
        }
        self.inputs = comparison.standard_inputs(self.size, self.size, 0, photographs)
        self.family = (_ConvMixer if variant.family == "convmixer" else _Mixer)(self)
        self.positions = variant.architecture.positions(self.size, self.size)
        self._known: dict[tuple, Any] = {}

    def report(self, fault: Fault | None = None, training: bool = True) -> comparison.Report:
        """All rows for an export, with a fault planted or none; without `training` those of inference alone."""
        with fault.patches() if fault else nullcontext():  # around the export alone: the truth knows no fault
            candidate = _Loaded(self.family.export(fault), ignores_training=bool(fault and fault.ignores_training))
        here = {saved_model.name_of(v): v.numpy() for v in candidate.variables}
        rows = comparison.compare_arrays(
            self.family.variables(candidate), here, output="variables", tolerance=comparison.EXACT
        )
        run = saved_model.as_function(candidate)
        for name, batch in self.inputs.items():
            rows += self._outputs(run, name, batch, self.family.sides)
        with saved_model.multiplied(candidate, self.family.probe_factor):
            rows += self._outputs(run, "noise, probed", self.inputs["noise"], self.family.probed_sides)
        if training:
            rows += self._training(candidate)
        return comparison.Report(rows)

    def _outputs(self, run: Model, name: str, batch: np.ndarray, sides: Callable[[str], Model]) -> list[comparison.Row]:
        truth, own = (
            self._once((name, dtype), partial(self._ask, sides, dtype, batch)) for dtype in ("float64", "float32")
        )
        return comparison.compare_outputs(lambda _: truth, run, {name: batch}, self.output, source=lambda _: own)

    def _ask(self, sides: Callable[[str], Model], dtype: str, batch: np.ndarray) -> np.ndarray:
        return sides(dtype)(batch)

    def _training(self, candidate: _Loaded) -> list[comparison.Row]:
        one, several = self.inputs["noise"], self.inputs["photographs"]
        truth, *sources = self._once(("gradients",), lambda: self.family.gradients(one, candidate.axes))
        found = self.family.joined(saved_model.gradients(candidate, one))
        settings = {"output": "gradients", "input_name": "noise", "batch": 1}
        rows = comparison.compare_arrays(truth, found, sources=sources, summed=self.positions, **settings)
        expected, own = self._once(("training",), lambda: self.family.training_passes(several))
        found = saved_model.training_pass(candidate, several)
        settings = {"input_name": "photographs", "batch": len(several)}
        for index, output in enumerate((f"{self.output}, training mode", "moving statistics")):
            summed = index * self.positions * len(several)
            arrays = [{"": side[index]} if index == 0 else side[index] for side in (expected, found, own)]
            if any(arrays):
                *pair, source = arrays
                rows += comparison.compare_arrays(*pair, output=output, sources=[source], summed=summed, **settings)
        return rows

    def _once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


class _Loaded:
    """An export as if it had been loaded from disk."""

    def __init__(self, exported: ExportedFunction, ignores_training: bool = False) -> None:
        self._model = saved_model.ReusableModel(exported)
        self.variables, self.trainable_variables = self._model.variables, self._model.trainable_variables
        self.axes, self._ignores_training = exported.axes, ignores_training

    def __call__(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._model.__call__(inputs, training=training and not self._ignores_training)


class _ConvMixer:
    probe_factor = staticmethod(convmixer.probe_factor)

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        weights = {key: value.copy() for key, value in subject.weights.items()}
        self.models = {
            "float32": convmixer.build_convmixer(subject.variant.architecture, weights, subject.head),
        }
        self.models["float64"] = convmixer.in_float64(self.models["float32"])
        self.graph = export_onnx(self.models["float32"], subject.output).SerializeToString()

    def export(self, fault: Fault | None) -> ExportedFunction:
        import onnx

        graph = onnx.load_from_string(self.graph)
        weights = {key: value.copy() for key, value in self.subject.weights.items()}
        if fault:
            fault.plant(graph, weights)
        return export_tensorflow(graph, weights, self.subject.size, self.subject.output)

    def variables(self, candidate: _Loaded) -> dict[str, np.ndarray]:
        state = self.models["float32"].state_dict()
        names = {saved_model.name_of(v) for v in candidate.variables}
        return {k: v.numpy().transpose(candidate.axes.get(k)) for k, v in state.items() if k in names}

    def sides(self, dtype: str) -> Model:
        return lambda inputs: convmixer.outputs(self.models[dtype], inputs)[self.subject.output]

    def probed_sides(self, dtype: str) -> Model:
        return lambda inputs: convmixer.outputs(convmixer.probed(self.models[dtype]), inputs)[self.subject.output]

    def gradients(self, inputs: np.ndarray, axes: dict) -> list[dict[str, np.ndarray]]:
        runs = [("float64", inputs), ("float32", inputs), ("float32", comparison.jittered(inputs))]
        return [
            {k: g.transpose(axes.get(k)) for k, g in convmixer.gradients(self.models[dtype], batch).items()}
            for dtype, batch in runs
        ]

    def joined(self, gradients: dict) -> dict:
        return gradients

    def training_passes(self, inputs: np.ndarray) -> list[tuple]:
        return [convmixer.training_pass(self.models[dtype], inputs) for dtype in ("float64", "float32")]


class _Mixer:
    probe_factor = staticmethod(mlp_mixer.probe_factor)
    joined = staticmethod(mlp_mixer.join_vanishing)

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.model = mlp_mixer.build(subject.variant.architecture, subject.head)
        self.weights = mlp_mixer.select_parameters(self.model, subject.weights)

    def export(self, fault: Fault | None) -> ExportedFunction:
        architecture = self.subject.variant.architecture
        weights = {key: np.array(value) for key, value in self.weights.items()}
        if fault:
            architecture = replace(architecture, **fault.architecture(architecture))
            fault.plant(None, weights)
        predict = mlp_mixer.predict_function(mlp_mixer.build(architecture, self.subject.head))
        change = fault.inputs if fault else lambda inputs: inputs
        return jax_to_tf.export(
            lambda parameters, inputs: predict(parameters, change(inputs)),
            weights,
            (self.subject.size, self.subject.size, 3),
            self.subject.output,
        )

    def variables(self, candidate: _Loaded) -> dict[str, np.ndarray]:
        return self.weights

    def sides(self, dtype: str) -> Model:
        run = mlp_mixer.as_outputs(self.model, self.weights, dtype == "float64")
        return lambda inputs: run(inputs)[self.subject.output]

    def probed_sides(self, dtype: str) -> Model:
        run = mlp_mixer.as_outputs(self.model, mlp_mixer.probed(self.weights), dtype == "float64")
        return lambda inputs: run(inputs)[self.subject.output]

    def gradients(self, inputs: np.ndarray, axes: dict) -> list[dict[str, np.ndarray]]:
        return [
            mlp_mixer.join_vanishing(mlp_mixer.gradients(self.model, self.weights, inputs, float64=exact))
            for exact in (True, False)
        ]

    def training_passes(self, inputs: np.ndarray) -> list[tuple]:
        return [(self.sides(dtype)(inputs), {}) for dtype in ("float64", "float32")]
