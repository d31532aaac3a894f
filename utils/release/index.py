"""What a release's index says of each artefact, and how it is read when somebody else has written it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.artefact.card_head import licence
from utils.artefact.contents import read_json
from utils.errors import PackagingError
from utils.families.variants import BESIDE
from utils.parity.report import Report

# What a release has beside its artefacts.
INDEX, SUMS, TABLE, PAGE, VERIFIER = "index.json", "SHA256SUMS", "TABLE.md", "models.html", "verify.pyz"
BATCH = "batch"  # the folder within that of the artefacts whose files are of no release: a batch's report and logs
LATENCY = f"{BATCH}/latency.json"  # what `benchmarks.release_latency` leaves for the index

Manifest = Mapping[str, Any]
Entry = Mapping[str, Any]


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
        "operations": manifest.get("settings", {}).get("operations"),
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
        "minimum_tensorflow": manifest["versions"].get("minimum_tensorflow"),
        "licence": licence(manifest)[0],
        "files": dict(files),
    }


def times(entry: Entry, output: str | None) -> float | None:
    """How many times as much as the source's own float32 an output errs, or "gradients" do; None if not measured so."""
    return (entry.get("times") or {}).get(output)


def read_latencies(path: Path) -> dict[str, dict[str, Any]]:
    """The latency of each artefact by its tarball's SHA-256, and where it was measured; {} where nothing was.

    `benchmarks.release_latency` tells what is in the file. PackagingError, which names the key, for anything else.
    """
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except PackagingError as error:
        raise PackagingError(f"{path} cannot be used ({error}). {_MEASURE}") from error
    artefacts = found.get("artefacts")
    if not (isinstance(artefacts, dict) and all(isinstance(figures, dict) for figures in artefacts.values())):
        raise PackagingError(f"{path}: expected 'artefacts' to be an object of objects. {_MEASURE}")
    latencies = {}
    for name, figures in artefacts.items():
        latency = figures | {key: found.get(key) for key in ("machine", "threads")}
        for key, fits in (_LATENCY | {"sha256": _sha256}).items():
            if not fits(latency.get(key)):
                raise PackagingError(f"{path}: {name!r} has no sound {key!r}. {_MEASURE}")
        latencies[latency["sha256"]] = {key: latency[key] for key in _LATENCY}
    return latencies


def read_index(path: Path) -> list[dict[str, Any]]:
    """An index's entries. PackagingError for what lists, sums and commands cannot be made of.

    A text may still say anything: whoever shows it escapes it. Names of files are plain ones, without a folder.
    """
    entries = read_json(path).get("artefacts", [])
    if not (isinstance(entries, list) and all(isinstance(found, dict) for found in entries)):
        raise PackagingError(f"{path}: expected 'artefacts' to be a list of objects. {_AGAIN}")
    for found in entries:
        sizes = {field: _or_none(_count) for field in found if field.endswith("_bytes")}
        for field, fits in (_FIELDS | sizes).items():
            if not fits(found.get(field)):
                raise PackagingError(f"{path}: {found.get('file')!r} has no sound {field!r}. {_AGAIN}")
        if found["file"] not in found["files"]:
            raise PackagingError(f"{path}: {found['file']!r} is not among its own files. {_AGAIN}")
    return entries


_AGAIN = "Make it again with `python -m utils.release`."
_MEASURE = "Remove it, or make it again with `python -m benchmarks.release_latency`."
_FILE, _SHA256 = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"), re.compile(r"[0-9a-f]{64}")
_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")  # which JSON can hold, and no file

Fits = Callable[[Any], object]


def _text(value: Any) -> bool:
    return isinstance(value, str) and not _HALF_CHARACTER.search(value)


def _some_text(value: Any) -> bool:
    return _text(value) and bool(value.strip())


def _sha256(value: Any) -> bool:
    return _text(value) and bool(_SHA256.fullmatch(value))


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300  # so no NaN


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _or_none(fits: Fits) -> Fits:
    return lambda value: value is None or fits(value)


def _by_text(key: Fits, fits: Fits) -> Fits:
    return lambda value: isinstance(value, dict) and all(key(k) and fits(v) for k, v in value.items())


_LATENCY: Mapping[str, Fits] = {
    **dict.fromkeys(("milliseconds", "source_milliseconds", "times"), _positive),
    **dict.fromkeys(("framework", "machine"), _some_text),
    "threads": _count,
}


def _latency(value: Any) -> bool:
    return isinstance(value, dict) and all(fits(value.get(key)) for key, fits in _LATENCY.items())


_FIELDS: Mapping[str, Fits] = {
    **dict.fromkeys(("name", "variant", "head", "weights", "family", "file"), _text),
    **dict.fromkeys(("operations", "derived_from", "output", "sentence", "minimum_tensorflow"), _or_none(_text)),
    "licence": _or_none(_text),
    **dict.fromkeys(("parameters", "bytes"), _count),
    **dict.fromkeys(("output_error", "gradients_error"), _or_none(_number)),
    "times": _or_none(_by_text(_text, _number)),
    "latency": _or_none(_latency),
    "source": _or_none(_by_text(_text, _or_none(_text))),
    "files": _by_text(_FILE.fullmatch, _sha256),
}
