"""What a release's index says of each artefact, and how it is read when somebody else has written it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from utils.artefact.contents import read_json
from utils.artefact.manifest import Sha256, licence
from utils.artefact.typed import Must, Text, check
from utils.errors import PackagingError
from utils.families.variants import BESIDE
from utils.parity.report import Report

# What a release has beside its artefacts.
INDEX, SUMS, TABLE, PAGE, VERIFIER = "index.json", "SHA256SUMS", "TABLE.md", "models.html", "verify.pyz"
BATCH = "batch"  # the folder within that of the artefacts whose files are of no release: a batch's report and logs
LATENCY = f"{BATCH}/latency.json"  # what `benchmarks.release_latency` leaves for the index

Manifest = Mapping[str, Any]

Positive = Annotated[float, Must(lambda value: value > 0, "a number above 0")]
Size = Annotated[int, Must(lambda value: value >= 0, "a number of at least 0")]
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Latency(TypedDict):
    """How long one image takes, in turns with the source: `benchmarks.release_latency` measures it."""

    milliseconds: Positive
    source_milliseconds: Positive
    times: Positive
    framework: Text
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
    top1: NotRequired[float | None]
    image_size: NotRequired[Size]
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


_LISTED = Must(lambda entry: entry["file"] in entry["files"], "an entry whose file is among its files")


class Index(TypedDict):
    """The file."""

    artefacts: list[Annotated[IndexEntry, _LISTED]]


def entry(
    manifest: Manifest, file: str, size: int, files: Mapping[str, str], latency: Latency | None = None
) -> IndexEntry:
    """What the index says of an artefact.

    Args:
        manifest: its own.
        file: what to download.
        size: of that, in bytes.
        files: SHA-256 by name, of all that is published of it.
        latency: as of `read_latencies`, where it was measured.
    """
    rows = Report.from_json(manifest["parity"]).rows
    output = next(iter(manifest["signatures"]["serving_default"]["outputs"]))
    ratios = manifest["parity"].get("ratio", {})  # errors in units of the source's own, where they were measured so
    return {
        **{key: manifest[key] for key in ("name", "variant", "head", "weights", "parameters")},
        "family": manifest["model"]["family"],
        # What the authors report is of their weights and their classifier; 0 stands for any size.
        "top1": manifest["model"].get("top1") if (manifest["weights"], output) == ("official", "logits") else None,
        "image_size": next(iter(manifest["signatures"]["serving_default"]["inputs"].values()))["shape"][1] or 0,
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
        "latency": latency,
        "minimum_tensorflow": manifest.get("minimum_tensorflow"),
        "licence": licence(manifest)[0],
        "files": dict(files),
    }


def times(entry: IndexEntry, output: str | None) -> float | None:
    """How many times as much as the source's own float32 an output errs, or "gradients" do; None if not measured so."""
    return (entry.get("times") or {}).get(output)


def megabytes(size: int) -> str:
    """A count of bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def read_latencies(path: Path) -> dict[str, Latency]:
    """The latency of each artefact that was measured, by its tarball's SHA-256; {} where there is no such file.

    PackagingError, which names the field, for anything else.
    """
    return _read(path, dict[str, Latency], "benchmarks.release_latency") if path.is_file() else {}


def read_index(path: Path) -> list[IndexEntry]:
    """An index's entries. PackagingError, which names the field, for what no lists and sums can be made of.

    A text may still say anything: whoever shows it escapes it. Names of files are plain ones, without a folder.
    """
    return _read(path, Index, "utils.release")["artefacts"]


def _read(path: Path, kind: Any, maker: str) -> Any:
    try:
        found = read_json(path)
        check(found, kind, str(path))
    except PackagingError as error:
        raise PackagingError(f"{error} Remove it, or make it again with `python -m {maker}`.") from error
    return found
