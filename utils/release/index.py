"""What a release's index says of each artefact, and how it is read when somebody else has written it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from utils.artefact.contents import read_json
from utils.artefact.manifest import Sha256, licence
from utils.artefact.typed import Must, Text, check, misfit
from utils.errors import PackagingError
from utils.families.variants import BESIDE
from utils.parity.report import Report

# What a release has beside its artefacts.
INDEX, SUMS, TABLE, PAGE, VERIFIER = "index.json", "SHA256SUMS", "TABLE.md", "models.html", "verify.pyz"
BATCH = "batch"  # the folder within that of the artefacts whose files are of no release: a batch's report and logs
LATENCY = f"{BATCH}/latency.json"  # what `benchmarks.release_latency` leaves for the index

Manifest = Mapping[str, Any]
Entry = Mapping[str, Any]

Positive = Annotated[float, Must(lambda value: value > 0, "a number above 0")]
Size = Annotated[int, Must(lambda value: value >= 0, "a number of at least 0")]
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Figures(TypedDict):
    """An artefact's latency."""

    milliseconds: Positive
    source_milliseconds: Positive
    times: Positive
    framework: Text


class MeasuredFigures(Figures):
    """The same with the SHA-256 of the tarball that was measured."""

    sha256: Sha256


class Latencies(TypedDict):
    """What `benchmarks.release_latency` leaves."""

    machine: Text
    threads: Size
    artefacts: dict[str, MeasuredFigures]


class Latency(Figures):
    """What the index says of it."""

    machine: Text
    threads: Size


class IndexEntry(TypedDict):
    """What the index says of an artefact."""

    name: str
    variant: str
    head: str
    weights: str
    family: str
    file: str
    parameters: Size
    bytes: Size
    files: Annotated[dict[str, Sha256], Must(lambda files: all(map(_FILE.fullmatch, files)), "plain names of files")]
    operations: NotRequired[str | None]
    source: NotRequired[dict[str, str | None] | None]
    derived_from: NotRequired[str | None]
    keras_bytes: NotRequired[Size | None]
    onnx_bytes: NotRequired[Size | None]
    output: NotRequired[str | None]
    output_error: NotRequired[float | None]
    gradients_error: NotRequired[float | None]
    times: NotRequired[dict[str, float] | None]
    sentence: NotRequired[str | None]
    latency: NotRequired[Latency | None]
    minimum_tensorflow: NotRequired[str | None]
    licence: NotRequired[str | None]


def entry(
    manifest: Manifest, file: str, size: int, files: Mapping[str, str], latency: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the index says of an artefact. file: what to download, of `size` bytes. files: SHA-256 by name.

    latency: of one image, as `read_latencies`, where it was measured.
    """
    rows = Report.from_json(manifest["parity"]).rows
    output = next(iter(manifest["signatures"]["serving_default"]["outputs"]))
    ratios = manifest["parity"].get("ratio", {})  # errors in units of the source's own, where they were measured so
    return {
        **{key: manifest[key] for key in ("name", "variant", "head", "weights", "parameters")},
        "family": manifest["model"]["family"],
        "operations": manifest.get("operations"),
        "source": manifest["source"],
        "derived_from": manifest.get("derived_from", {}).get("name"),
        "file": file,
        "bytes": size,
        **{f"{key}_bytes": manifest.get(key, {}).get("bytes") for key in BESIDE},
        "output": output,
        "output_error": max((row.figure for row in rows if row.output == output), default=None),
        "gradients_error": max((row.figure for row in rows if row.output == "gradients"), default=None),
        "times": {key: value for key, value in ratios.items() if key in (output, "gradients")},
        "sentence": manifest["parity"].get("sentence", ""),
        "tolerance": manifest["parity"]["tolerance"],
        "latency": dict(latency) if latency else None,
        "minimum_tensorflow": manifest.get("minimum_tensorflow"),
        "licence": licence(manifest)[0],
        "files": dict(files),
    }


def times(entry: Entry, output: str | None) -> float | None:
    """How many times as much as the source's own float32 an output errs, or "gradients" do; None if not measured so."""
    return (entry.get("times") or {}).get(output)


def read_latencies(path: Path) -> dict[str, dict[str, Any]]:
    """The latency of each artefact by its tarball's SHA-256, and where it was measured; {} where nothing was.

    `benchmarks.release_latency` tells what is in the file. PackagingError, which names the field, for anything else.
    """
    if not path.is_file():
        return {}
    again = "Remove it, or make it again with `python -m benchmarks.release_latency`."
    try:
        found = read_json(path)
        check(found, Latencies, str(path))
    except PackagingError as error:
        raise PackagingError(f"{path} cannot be used ({error}). {again}") from error
    where = {key: found[key] for key in ("machine", "threads")}
    figures = ("milliseconds", "source_milliseconds", "times", "framework")
    return {each["sha256"]: {key: each[key] for key in figures} | where for each in found["artefacts"].values()}


def read_index(path: Path) -> list[dict[str, Any]]:
    """An index's entries. PackagingError, which names the field, for what no lists and sums can be made of.

    A text may still say anything: whoever shows it escapes it. Names of files are plain ones, without a folder.
    """
    entries = read_json(path).get("artefacts", [])
    try:
        check(entries, list[IndexEntry], str(path), "artefacts")
        for i, found in enumerate(entries):
            if found["file"] not in found["files"]:
                raise misfit(str(path), f"artefacts[{i}].file", found["file"], "one that is among its own files")
    except PackagingError as error:
        raise PackagingError(f"{error} Make it again with `python -m utils.release`.") from error
    return entries
