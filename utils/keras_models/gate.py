"""The gate of a `.keras` file: on every backend, what it computes against the float64 truth of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils.keras_models.conventions import BACKENDS
from utils.keras_models.processes import Job, compute
from utils.parity.proof import Proof
from utils.parity.report import Report


def job_of(
    proof: Proof, file: Path, family: str, more: Mapping[str, np.ndarray] | None = None, training: bool = True
) -> Job:
    """What has to be computed for `Proof.compare`; `more` inputs by name, besides the proof's own."""
    source, inputs = proof.source, proof.inputs | dict(more or {})
    modes = ("inference",) if source.has_statistics else ("inference", "training")
    what = {"modes": modes} if training else {"modes": (), "training": ""}
    return Job(file, family, inputs, source.probe_factor, keys=list(source.variables()), **what)


def prove(
    proof: Proof,
    file: Path,
    family: str,
    more: Mapping[str, np.ndarray] | None = None,
    backends: Sequence[str] = BACKENDS,
) -> dict[str, Report]:
    """A report by backend, each computed in a process of its own. `proof` must have been made with `keep`.

    ParityError where one could not be computed; whether they pass, the reports say.
    """
    reports = {}
    for backend in backends:
        (candidate,) = compute([job_of(proof, file, family, more)], backend)
        reports[backend] = Report(proof.compare(candidate, more), proof.source.framework)
    return reports
