"""The files that a conversion leaves beside its SavedModel, one for each further format that was asked for.

Each is written from the source, loaded again by what its users have, and proved against the same float64 truth. A
format is a row of `KINDS`, and one of `variants.BESIDE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.artefact.record import build_record, record_as_texts
from utils.artefact.staging import Staging
from utils.errors import ParityError
from utils.families import FAMILIES
from utils.families.variants import BESIDE, Variant
from utils.files import hash_file
from utils.machine.quiet import quiet_imports
from utils.parity.proof import Proof
from utils.parity.report import Report

Inputs = Mapping[str, np.ndarray]
Reports = Mapping[str, Report]  # by what computed: a backend, a runtime


class ExtraFormats:
    """Writes and proves the files asked for in `formats`, as `settings.formats_of` gives them; no-op without any.

    Files are written in `stage`. case: the proof of the SavedModel.
    """

    def __init__(self, formats: Sequence[str], stage: Staging, case: Proof, variant: Variant) -> None:
        self._files = {key: stage.beside[key] for key in BESIDE if key in formats}
        self._case, self._variant = case, variant
        self._reports: dict[str, Reports] = {}
        self.facts: dict[str, dict[str, Any]] = {}  # for the manifest, by format, of what was proved

    def write(self, **fields: Any) -> None:
        """Writes every file, with a record of what it is. Raises ConversionErrors where the weights do not fit.

        fields: for `build_record`, all but the tolerance.
        """
        if self._files:
            record = build_record(tolerance=self._case.tolerance(), **fields)
        for key, path in self._files.items():
            KINDS[key].write(path, self._variant, self._case.source, record)

    def prove(self, more: Inputs) -> None:
        """Compares all that can be, for the proof's inputs and `more`; whether it passes, the reports say.

        ParityError where something could not be computed.
        """
        found = dict(self._case.found)
        for key, path in self._files.items():
            self._reports[key] = KINDS[key].prove(self._case, path, self._variant.family, more)
            self.facts[key] = facts(key, path, self._reports[key])
        self._case.found = found  # what the SavedModel gave, which is what is shown

    @property
    def reports(self) -> Iterator[tuple[str, Report]]:
        """Each with a title."""
        for key, reports in self._reports.items():
            for by, report in reports.items():
                yield f".{key} file, {by}:", report

    def require(self) -> None:
        """Does nothing if every report passes, else raises ParityError with the file and its figures."""
        for key, reports in self._reports.items():
            require(key, reports)


def require(key: str, reports: Reports) -> None:
    """Does nothing if every report passes, else raises ParityError with the format, who computed, and the figures."""
    for by, report in reports.items():
        try:
            report.require()
        except ParityError as error:
            raise ParityError(f"the .{key} file on {by}: {error}") from error


def facts(key: str, path: Path, reports: Reports) -> dict[str, Any]:
    """For the manifest: the SHA-256 of the file that was proved, versions, and how much it errs, without rows."""
    parity = {
        by: {field: value for field, value in report.to_json().items() if field != "rows"}
        for by, report in reports.items()
    }
    return {"sha256": hash_file(path), **KINDS[key].versions(path), "parity": parity}


def _write_keras(path: Path, variant: Variant, source: Any, record: Mapping[str, Any]) -> None:
    with quiet_imports():
        from utils.keras_models import saving

    saving.write(path, variant, source.variables(), record["head"], record["image_size"], record)


def _prove_keras(case: Proof, path: Path, family: str, more: Inputs) -> Reports:
    """On each backend, in a process of its own."""
    from utils.keras_models import gate

    return gate.prove(case, path, family, more)


def _keras_versions(path: Path) -> dict[str, Any]:
    from utils.keras_models.archive import read_version

    return {"keras_version": read_version(path)}


def _write_onnx(path: Path, variant: Variant, source: Any, record: Mapping[str, Any]) -> None:
    from utils.export import onnx_file

    graph = FAMILIES[variant.family].models.onnx_graph(source)
    onnx_file.write(path, graph, source.variables(), record["image_size"], record_as_texts(record))


def _prove_onnx(case: Proof, path: Path, _family: str, more: Inputs) -> Reports:
    """By ONNX Runtime, inference alone, since there is nothing in the file to train it by."""
    from utils.export import onnx_file, onnx_session

    rows = case.compare(onnx_file.Candidate(path), more, training=False)
    return {onnx_session.NAME: Report(rows, case.source.framework)}


def _onnx_versions(_path: Path) -> dict[str, Any]:
    from utils.export import onnx_session, torch_to_onnx

    runtime = onnx_session.import_onnxruntime()
    return {"opset": torch_to_onnx.FILE_OPSET, f"{onnx_session.NAME}_version": runtime.__version__}


class Kind(NamedTuple):
    """What a format can do: write the file with its record, compare it, and say for the manifest what made it."""

    write: Callable[[Path, Variant, Any, Mapping[str, Any]], None]
    prove: Callable[[Proof, Path, str, Inputs], Reports]
    versions: Callable[[Path], dict[str, Any]]


KINDS = {
    "keras": Kind(_write_keras, _prove_keras, _keras_versions),
    "onnx": Kind(_write_onnx, _prove_onnx, _onnx_versions),
}
