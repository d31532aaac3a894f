"""What can be verified of a `.keras` file: what it is made of, its hash in the manifest beside it, and its numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from utils.artefact.contents import published_keras
from utils.errors import PackagingError
from utils.files import hash_file
from utils.keras_models.archive import check, read_record
from utils.keras_models.candidate import load_candidate
from utils.keras_models.record import check_record, golden_of
from utils.verify.files import Check, check_name
from utils.verify.numbers import check_numbers


def check_keras(path: Path) -> Iterator[Check]:
    """Looks at the file, then loads it with Keras, on the backend that KERAS_BACKEND names, and computes.

    PackagingError for what is no whole `.keras` file of this project's layers.
    """
    record = read_record(path)
    check(path)
    check_record(record, path.name)
    yield Check("contents", True, "a Keras 3 model of Keras's own layers, with its record")
    checks = [check_name(path, record), _check_beside(path, record["name"])]
    yield from checks
    if any(each.passed is False for each in checks):
        return
    golden = golden_of(record, path.name)
    try:
        candidate = load_candidate(path, record["model"]["family"])
    except PackagingError as error:
        if isinstance(error.__cause__, ImportError):
            raise
        yield Check("load", False, str(error))
        return
    parity = {"parity": {"tolerance": {record["output"]: record["tolerance"]}}}
    yield check_numbers(golden, candidate, "the model called", parity, record["output"])


def _check_beside(path: Path, name: str) -> Check:
    """The file's SHA-256 against the published manifest's, if that is beside it and knows of the file."""
    expected = published_keras(path, name)
    if expected is None:
        return Check("files", None, f"there is no {name}.json beside it that names its SHA-256")
    if (found := hash_file(path)) != expected:
        return Check("files", False, f"its SHA-256 is {found}, and {name}.json says {expected}")
    return Check("files", True, f"its SHA-256 is the one in {name}.json")
