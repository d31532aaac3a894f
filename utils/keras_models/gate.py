"""The gate of a `.keras` file: on every backend, what it computes against the float64 truth of its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import ParityError
from utils.files import hash_file
from utils.keras_models.archive import read_version
from utils.keras_models.conventions import BACKENDS
from utils.keras_models.processes import Job, compute
from utils.parity.comparison import Report, compare_outputs
from utils.parity.proof import Proof


def job_of(
    proof: Proof, file: Path, family: str, more: Mapping[str, np.ndarray] | None = None, training: bool = True
) -> Job:
    """What has to be computed for `Proof.compare`; `more` inputs by name, besides the proof's own."""
    source, inputs = proof.source, proof.inputs | dict(more or {})
    modes = ("inference",) if source.statistics else ("inference", "training")
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
    reports, found = {}, dict(proof.found)
    for backend in backends:
        (candidate,) = compute([job_of(proof, file, family, more)], backend)
        reports[backend] = Report(proof.compare(candidate, more), proof.source.framework)
    proof.found = found  # what the SavedModel gave, which is what is shown
    return reports


def tolerance_of(proof: Proof, more: Mapping[str, np.ndarray] | None = None) -> float:
    """What any candidate's outputs are allowed to err by at most: it follows from the source's own error alone."""
    batches = (proof.inputs | dict(more or {})).items()
    rows = [
        row
        for name, batch in batches
        for row in compare_outputs(proof.truth, proof.own, {name: batch}, proof.output, source=proof.own)
    ]
    return Report(rows).tolerances[proof.output]


def facts(file: Path, reports: Mapping[str, Report]) -> dict[str, Any]:
    """For the manifest: the SHA-256 of the file that was proved, and by backend how much it errs, without the rows."""
    told = {backend: report.to_json() for backend, report in reports.items()}
    parity = {backend: {key: found[key] for key in found if key != "rows"} for backend, found in told.items()}
    return {"sha256": hash_file(file), "keras_version": read_version(file), "parity": parity}


def require(reports: Mapping[str, Report]) -> None:
    """Does nothing if every report passes, else raises ParityError with the backend and its figures."""
    for backend, report in reports.items():
        try:
            report.require()
        except ParityError as error:
            raise ParityError(f"the .keras file on Keras's backend {backend}: {error}") from error
