"""What can be verified of a `.keras` or `.onnx` file: its hash by the manifest beside it, what it is, its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from utils.artefact.contents import published_hash
from utils.artefact.record import check_record, golden_of, record_from_texts
from utils.errors import PackagingError
from utils.export.onnx_session import Session, Unloadable
from utils.files import hash_file
from utils.keras_models.archive import check, read_record
from utils.keras_models.candidate import load_candidate
from utils.verify.files import Check, check_name
from utils.verify.numbers import Run, check_batches

# The record, what the file is, and how it is loaded.
Opened = tuple[Mapping[str, Any], str, Callable[[], Run]]


def check_native(path: Path) -> Iterator[Check]:
    """Looks at the file, then runs it: on the backend that KERAS_BACKEND names, or by ONNX Runtime.

    PackagingError for what is no whole file of this project.
    """
    yield (published := _check_beside(path))
    try:
        record, what, load = OPEN[path.suffix](path)
    except Unloadable as error:
        if not published.passed:  # damage is likelier than an old runtime
            raise
        yield Check("load", False, str(error))
        return
    check_record(record, path.name)
    yield Check("contents", True, f"{what}, with its record")
    yield check_name(path, record)
    golden = golden_of(record, path.name)
    try:
        run = load()
    except PackagingError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        yield Check("load", False, str(error))
        return
    yield from check_batches(golden, run, record["tolerance"], record["output"])


def _open_keras(path: Path) -> Opened:
    record = read_record(path)
    check(path)
    return record, "a Keras 3 model of Keras's own layers", lambda: load_candidate(path, record["model"]["family"])


def _open_onnx(path: Path) -> Opened:
    session = Session(path)
    return record_from_texts(session.metadata, path.name), "an ONNX model that ONNX Runtime loads", lambda: session


OPEN: dict[str, Callable[[Path], Opened]] = {".keras": _open_keras, ".onnx": _open_onnx}


def _check_beside(path: Path) -> Check:
    """The file's SHA-256 against the published manifest's, if that is beside it and knows of the file."""
    name = path.resolve().stem
    expected = published_hash(path, name)
    if expected is None:
        return Check("files", None, f"there is no {name}.json beside it that names its SHA-256")
    if (found := hash_file(path)) != expected:
        return Check("files", False, f"its SHA-256 is {found}, and {name}.json says {expected}")
    return Check("files", True, f"its SHA-256 is the one in {name}.json")
