"""The proof of one conversion: the source run on what is compared, and the export held against it.

The source can begin early, in a thread of its own: while TensorFlow is imported, traces, saves and packs, most of which
takes one core, the other one is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Protocol

import numpy as np

from utils.parity import comparison
from utils.parity.inputs import jittered
from utils.parity.judge import EXACT, Row
from utils.parity.references import Model, References
from utils.parity.report import Report

Arrays = dict[str, np.ndarray]

DTYPES = ("float64", "float32")  # the truth, and the source's own


class ReferenceModel(Protocol):
    """A model in its own framework. Inputs are float32 [B, H, W, C]; `dtype` is one of `DTYPES`.

    Attributes:
        framework: its name, for people.
        one_core: a run takes one core, so that two can go side by side.
        has_kinks: rounding decides on which side of a kink (ReLU's) some units fall, so that one float32 run of the
            gradients is not enough.
        has_maps: it tells what comes out of its blocks, and its feature extractors' exports do too.
        has_statistics: it has moving statistics, which training mode updates and does not use.
        shares_gradients: several exports have the same gradients, which are worth keeping between conversions.
        probe_factor: by what to multiply a variable so that the normalisation's epsilon decides what comes out.
    """

    framework: str
    one_core: bool
    has_kinks: bool
    has_maps: bool
    has_statistics: bool
    shares_gradients: bool
    probe_factor: Callable[[str], float]

    def variables(self) -> Mapping[str, np.ndarray]:
        """All that the export has as variables, in float32."""

    def outputs(self, inputs: np.ndarray, dtype: str, probed: bool = False) -> Arrays:
        """`features` and, of a classifier, `logits`; probed: with each variable multiplied by its `probe_factor`."""

    def maps(self, inputs: np.ndarray, dtype: str) -> Arrays:
        """What comes out of the stem and of `tapped_blocks`, [B, h, w, C] by name; only where it `has_maps`."""

    def gradients(self, inputs: np.ndarray, dtype: str) -> Arrays:
        """Of `sum(output ** 2) / batch`, by every trainable variable."""

    def training_pass(self, inputs: np.ndarray, dtype: str) -> tuple[Arrays, Arrays]:
        """The outputs in training mode, and the statistics that it leaves."""

    def merge_vanishing_gradients(self, gradients: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """The same gradients, those that are nothing but rounding joined with others."""


class Candidate(Protocol):
    """An export: the same, in float32 and in its own axis order."""

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Its one output, in inference mode."""

    def variables(self) -> Arrays:
        """All of them, by the names that they have in the source."""

    def gradients(self, inputs: np.ndarray, training: bool = False) -> dict[str, np.ndarray | None]:
        """As the source's; None for a variable that the output does not depend on."""

    def training_pass(self, inputs: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Its output in training mode, and the statistics that it leaves."""

    def scaled_variables(self, factor: Callable[[str], float]) -> AbstractContextManager[None]:
        """Inside, each variable is multiplied by the factor of its name."""

    def to_export_layout(self, name: str, array: np.ndarray) -> np.ndarray:
        """The source's array of that name, in the candidate's axis order."""

    def expected_statistics(
        self, statistics: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray], count: int
    ) -> Arrays:
        """The moving statistics this export should have after one training step.

        before: what they were. count: of how many values each is.
        """


class Proof:
    """What the source computes, once, and the rows of an export compared with it.

    output: "logits" or "features". inputs: by name, as from `standard_inputs`; gradients are compared on "noise",
    training mode on "photographs". positions: of the model's grid, over which gradients are sums.
    kept: where results are remembered.
    """

    def __init__(
        self,
        source: ReferenceModel,
        output: str,
        inputs: Mapping[str, np.ndarray],
        positions: int,
        kept: References,
    ) -> None:
        self.source, self.output, self.inputs, self.positions = source, output, dict(inputs), positions
        self._kept, self._noise, self._several = kept, inputs["noise"], inputs["photographs"]
        self.found: Arrays = {}
        self.truth, self.own = (self._run(dtype) for dtype in DTYPES)  # as functions of NHWC arrays
        self._probed = [self._run(dtype, probed=True) for dtype in DTYPES]
        runs = [*((dtype, self._noise) for dtype in DTYPES)]
        if source.has_kinks:
            runs.append(("float32", jittered(self._noise)))
        self._gradients = [cache(partial(self._gradient_run, dtype, inputs)) for dtype, inputs in runs]
        self._training = [cache(partial(self._training_run, dtype)) for dtype in DTYPES]
        self._maps = {  # for few inputs, and waiting on disk: together they are many times as large as their image
            name: [cache(partial(self._map_run, dtype, batch)) for dtype in DTYPES]
            for name, batch in inputs.items()
            if self.has_maps and name.startswith("noise")
        }

    def begin(self) -> None:
        """Starts all of it in a thread, in the order in which it will be asked for.

        Outputs in float32 have a thread beside that one where there is a core for it. Gradients wait their turn: they
        are as large as the model, and what is kept on the way to them is larger.
        """
        truth, own = DTYPES if self.source.one_core else ("source", "source")
        ahead, batches = self._kept.ahead, list(self.inputs.values())
        self.truth, self.own = ahead(self.truth, batches, truth), ahead(self.own, batches, own)
        self._probed = [ahead(run, [self._noise], to) for run, to in zip(self._probed, (truth, own), strict=True)]
        self._maps = {name: [self._kept.later(run, truth) for run in runs] for name, runs in self._maps.items()}
        self._gradients = [self._kept.later(run, truth) for run in self._gradients]
        self._training = [self._kept.later(run, truth) for run in self._training]

    @property
    def has_maps(self) -> bool:
        """Whether a SavedModel of this source has maps."""
        return self.output == "features" and self.source.has_maps

    def compare(
        self, candidate: Candidate, more: Mapping[str, np.ndarray] | None = None, training: bool = True
    ) -> list[Row]:
        """All that follows, for the inputs and `more` of them; without `training`, inference alone."""
        rows = self.compare_variables(candidate)
        for name, batch in (self.inputs | dict(more or {})).items():
            rows += self.compare_outputs(candidate, name, batch)
        rows += self.compare_normalisation(candidate)
        return rows + ([*self.compare_gradients(candidate), *self.compare_training(candidate)] if training else [])

    def tolerance(self, more: Mapping[str, np.ndarray] | None = None) -> float:
        """What any candidate's outputs may err by at most: it follows from the source's own error alone."""
        batches = self.inputs | dict(more or {})
        rows = comparison.compare_outputs(self.truth, self.own, batches, self.output, source=self.own)
        return Report(rows).tolerances[self.output]

    def compare_variables(self, candidate: Candidate) -> list[Row]:
        """Every variable, bit for bit."""
        there = _InExportLayout(self.source.variables(), candidate)
        return comparison.compare_arrays(there, candidate.variables(), output="variables", tolerance=EXACT)

    def compare_outputs(self, candidate: Candidate, name: str, batch: np.ndarray) -> list[Row]:
        """The output for one batch, which `name` tells of; `found` keeps what the candidate gave."""

        def run(inputs: np.ndarray) -> np.ndarray:
            self.found[name] = candidate(inputs)
            return self.found[name]

        return comparison.compare_outputs(self.truth, run, {name: batch}, self.output, source=self.own)

    def compare_normalisation(self, candidate: Candidate) -> list[Row]:
        """The output for noise, with variables so small on all sides that each normalisation's epsilon decides it.

        Whether another epsilon shows otherwise depends on the checkpoint.
        """
        truth, own = self._probed
        with candidate.scaled_variables(self.source.probe_factor):
            return comparison.compare_outputs(truth, candidate, {"noise, probed": self._noise}, self.output, source=own)

    def compare_maps(self, maps: Callable[[np.ndarray], Arrays]) -> list[Row]:
        """What comes out of the stem and of blocks, for noise; a SavedModel alone gives it.

        maps: float32 [B, H, W, C] -> float32 [B, h, w, C] by name.
        """
        rows = []
        for name, runs in self._maps.items():
            batch = self.inputs[name]
            truth, own = (run() for run in runs)
            settings = {"output": "maps", "sources": [own], "input_name": name, "batch": len(batch)}
            rows += comparison.compare_arrays(truth, maps(batch.copy()), **settings)
        return rows

    def compare_gradients(self, candidate: Candidate) -> list[Row]:
        """Gradients by every trainable variable; in both modes, where both are the same model."""
        rows = []
        truth, *own = [_InExportLayout(run(), candidate) for run in self._gradients]
        for training in (False,) if self.source.has_statistics else (False, True):
            found = self.source.merge_vanishing_gradients(candidate.gradients(self._noise, training))
            mode = "noise, training mode" if training else "noise"
            rows += comparison.compare_arrays(
                truth, found, output="gradients", sources=own, summed=self.positions, input_name=mode, batch=1
            )
            del found  # as large as the model
        return rows

    def compare_training(self, candidate: Candidate) -> list[Row]:
        """The output in training mode, and the statistics that it leaves, if the model has any."""
        batch = len(self._several)
        settings = {"input_name": "photographs", "batch": batch}
        found, statistics = candidate.training_pass(self._several)
        (truth, statistics_truth), (own, statistics_own) = (run() for run in self._training)
        output = f"{self.output}, training mode"
        rows = comparison.compare_arrays({"": truth}, {"": found}, output=output, sources=[{"": own}], **settings)
        if self.source.has_statistics or statistics:
            before, count = self.source.variables(), batch * self.positions
            truth, own = (
                candidate.expected_statistics(each, before, count) for each in (statistics_truth, statistics_own)
            )
            # Without the allowance for sums: that the variance is over n - 1 shows by a tenth of 1 / n only.
            settings |= {"output": "moving statistics", "sources": [own]}
            rows += comparison.compare_arrays(truth, statistics, **settings)
        return rows

    def _run(self, dtype: str, probed: bool = False) -> Model:
        run = partial(self.source.outputs, dtype=dtype, probed=probed)
        return self._kept.output(self.output, run, f"{dtype}, probed" if probed else dtype)

    def _gradient_run(self, dtype: str, inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        def run(inputs: np.ndarray) -> Arrays:
            return self.source.merge_vanishing_gradients(self.source.gradients(inputs, dtype))

        return self._kept.large(
            f"gradients of {self.output}, {dtype}", inputs, run, shared=self.source.shares_gradients
        )

    def _map_run(self, dtype: str, inputs: np.ndarray) -> Mapping[str, np.ndarray]:
        run, shared = partial(self.source.maps, dtype=dtype), self.source.shares_gradients
        return self._kept.large(f"maps, {dtype}", inputs, run, shared=shared)

    def _training_run(self, dtype: str) -> tuple[np.ndarray, Arrays]:
        if not self.source.has_statistics:  # the same model in both modes
            return (self.truth if dtype == "float64" else self.own)(self._several), {}

        def run(inputs: np.ndarray) -> Arrays:
            outputs, statistics = self.source.training_pass(inputs, dtype)
            return outputs | {f"{_STATISTIC}{name}": array for name, array in statistics.items()}

        found = self._kept.arrays(f"training mode, {dtype}", self._several, run, self.output)
        names = [name for name in found if name.startswith(_STATISTIC)]
        return found[self.output], {name.removeprefix(_STATISTIC): found[name] for name in names}


class _InExportLayout(Mapping[str, np.ndarray]):
    """The source's arrays in the candidate's axis order, each as it is asked for: together they may be on disk."""

    def __init__(self, arrays: Mapping[str, np.ndarray], candidate: Candidate) -> None:
        self._arrays, self._candidate = arrays, candidate

    def __getitem__(self, name: str) -> np.ndarray:
        return self._candidate.to_export_layout(name, self._arrays[name])

    def __contains__(self, name: object) -> bool:
        return name in self._arrays  # without reading it

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


_STATISTIC = "statistic "  # before its name, where it is remembered beside outputs
