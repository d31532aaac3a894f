"""The manifest: what an artefact is, where it came from, how it was verified, and each file's hash."""

from __future__ import annotations

import json
import math
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

from utils.errors import PackagingError
from utils.families.variants import BESIDE, HEADS, WEIGHTS, Preprocessing, Variant

# Both tell of the other files' hashes, so they cannot be among them.
UNLISTED = ("assets.extra/manifest.json", "assets.extra/README.md")

# What stands for the model itself in `files`, by the manifest's `format`; without one it is a SavedModel.
_MAIN = {"saved_model": "saved_model.pb", "tflite": "model.tflite"}
_STORAGE = re.compile(r"_(float32|float16|int8)$")  # at the end of the name of a smaller file
# What another run of the same conversion would measure otherwise. The tarball must not depend on it.
_MEASURED = ("seconds", "peak_memory_mb", "peak_memory_mb_by_stage", "parity", "preprocessing_parity")
# What lies beside it, and tells of it.
_BESIDE = ("tarball", *BESIDE)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OF_VARIANT = (
    *("family", "labels", "trained_on", "top1", "top1_source", "testing"),
    *("licence", "licence_url", "paper", "paper_url", "upstream_url", "citation"),
)


def build_manifest(
    *,
    name: str,
    variant: Variant,
    head: str,
    weights: str,
    source: Mapping[str, str | None],
    versions: Mapping[str, str | int],
    parameters: int,
    signatures: Mapping[str, Mapping[str, Mapping[str, Any]]],
    parity: Mapping[str, Any],
    seconds: Mapping[str, float],
    peak_memory_mb: float,
    files: Mapping[str, str],
    peak_memory_mb_by_stage: Mapping[str, float] | None = None,
    preprocessing: Preprocessing | None = None,
    settings: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    preprocessing_parity: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest as a dict for JSON, checked by `check_manifest`.

    source: `url` and `path` (either may be None) and `sha256` of the checkpoint. parameters: their count. signatures:
    as `describe_signatures`. parity: `Report.to_json()`. seconds, peak_memory_mb_by_stage: by stage. files: what parity
    was run on, as `Staging.files`. preprocessing: what the artefact expects, if not the variant's own. settings:
    parameters worth keeping (image_size, seed). training: of a fine-tuned model, its history, data set and settings.
    preprocessing_parity: as `parity`, of the graph's preprocessing against Pillow's, in levels of 0 to 255. notes: what
    reading the checkpoint had to tell. Details of the variant (licence, paper, architecture) are copied under `model`:
    the card is made from this alone.
    """
    model = {key: getattr(variant, key) for key in _OF_VARIANT}
    if weights == "custom":  # whose classes are those of its labels.tsv
        model |= {"labels": None, "top1": None, "trained_on": "not known: a local checkpoint file"}
    model["architecture"] = asdict(variant.architecture)
    model["preprocessing"] = asdict(preprocessing or variant.preprocessing)
    manifest: dict[str, Any] = {
        "name": name,
        "variant": variant.name,
        "head": head,
        "weights": weights,
        "source": {key: source.get(key) for key in ("url", "path", "sha256")},
        "versions": dict(versions),
        "parameters": parameters,
        "signatures": signatures,
        "parity": parity,
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
        "peak_memory_mb": peak_memory_mb,
        "files": dict(files),
        "model": model,
    }
    optional = {
        "peak_memory_mb_by_stage": peak_memory_mb_by_stage,
        "settings": settings,
        "training": training,
        "preprocessing_parity": preprocessing_parity,
        "notes": list(notes) or None,
    }
    manifest |= {key: value for key, value in optional.items() if value is not None}
    check_manifest(manifest)
    return json.loads(manifest_text(manifest))  # tuples become lists, as they are in the file


def check_manifest(manifest: Mapping[str, Any]) -> None:
    """Raises PackagingError for a field that is missing, wrong, or does not fit another. Takes a packed one too."""
    for field, fits, expected in _rules(manifest):
        if field not in manifest:
            raise PackagingError(f"manifest: the field {field!r} is missing. Expected {expected}.")
        try:
            good = fits(manifest[field])
        except (TypeError, KeyError, AttributeError):
            good = False
        if not good:
            found = repr(manifest[field])
            found = found if len(found) < 200 else found[:200] + "…"
            raise PackagingError(f"manifest: {field!r} is {found}. Expected {expected}.")


def check_name(name: object) -> None:
    """PackagingError unless `name` may be an artefact's: it becomes part of file names."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise PackagingError(f"name = {name!r}: expected letters, digits, - and _, with a letter or digit first.")


def _rules(manifest: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """Field, what its value must fulfil, and that in words."""
    synthetic = manifest.get("weights") == "synthetic"
    ending = "_synthetic at its end, as the weights are" if synthetic else "no _synthetic at its end"
    official = manifest.get("weights") == "official"
    main = _MAIN.get(manifest.get("format", "saved_model"), "a known format's model")
    rules = [
        ("name", _NAME.fullmatch, "letters, digits, - and _"),
        ("weights", WEIGHTS.__contains__, f"one of {', '.join(WEIGHTS)}"),
        ("name", lambda name: _STORAGE.sub("", name).endswith("_synthetic") == synthetic, ending),
        ("variant", lambda value: isinstance(value, str) and value, "the variant's name"),
        ("head", HEADS.__contains__, f"one of {', '.join(HEADS)}"),
        ("source", lambda source: _SHA256.fullmatch(source["sha256"]), "the SHA-256 of the checkpoint in it"),
        ("source", lambda source: source["url"] or not official, "the official file's url in it"),
        ("versions", lambda value: value and all(value.values()), "the version of each library"),
        ("parameters", lambda value: isinstance(value, int) and value > 0, "a count above 0"),
        ("signatures", _signatures_fit, "serving_default, with dtype and shape of inputs and outputs"),
        *(
            (field, _parity_fits, "a report that passed, with at least one row and none failed")
            for field in ("parity", "preprocessing_parity")
            if field == "parity" or field in manifest
        ),
        ("seconds", _numbers, "a number of seconds for each stage"),
        ("peak_memory_mb", lambda value: _number(value) and value > 0, "a number above 0"),
        ("files", lambda files: _files_fit(files, main), f"the SHA-256 of {main} and all but {' and '.join(UNLISTED)}"),
    ]
    return [rule for rule in rules if not (rule[0] in ("seconds", "peak_memory_mb") and is_packed(manifest))]


def _signatures_fit(signatures: Mapping[str, Any]) -> bool:
    sides = [signature[side] for signature in signatures.values() for side in ("inputs", "outputs")]
    tensors = [tensor for side in sides for tensor in side.values()]
    return "serving_default" in signatures and all({"dtype", "shape"} <= set(tensor) for tensor in tensors)


def _parity_fits(parity: Mapping[str, Any]) -> bool:
    if "compared" in parity:
        return parity["passed"] is True and bool(parity["compared"])
    return bool(parity["rows"]) and all(each["passed"] is True for each in (parity, *parity["rows"]))


def _files_fit(files: Mapping[str, str], main: str) -> bool:
    listed = main in files and not set(files) & set(UNLISTED)
    return listed and all(_SHA256.fullmatch(value) for value in files.values())


def _numbers(values: Mapping[str, float]) -> bool:
    return bool(values) and all(_number(value) and value >= 0 for value in values.values())


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def packed_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that travels inside the artefact: without figures of the run, so that a rerun gives the same bytes.

    `parity` says what was compared, that it passed, and the outputs' tolerance; figures and the other tolerances (some
    are measured too) stand in the manifest beside the tarball.
    """
    compared = Counter((row["output"], row["input"], row["batch"]) for row in manifest["parity"]["rows"])
    rows = [{"output": o, "input": i, "batch": b, "arrays": count} for (o, i, b), count in compared.items()]
    kept = {key: value for key, value in manifest.items() if key not in (*_MEASURED, *_BESIDE)}
    outputs = manifest["signatures"]["serving_default"]["outputs"]
    tolerance = {key: value for key, value in manifest["parity"]["tolerance"].items() if key in outputs}
    return kept | {"parity": {"passed": manifest["parity"]["passed"], "tolerance": tolerance, "compared": rows}}


def is_packed(manifest: Mapping[str, Any]) -> bool:
    """Whether this is the manifest from inside an artefact."""
    return isinstance(manifest.get("parity"), Mapping) and "compared" in manifest["parity"]


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """The manifest as it stands in a file. PackagingError for NaN and what else JSON cannot hold."""
    try:
        return json.dumps(manifest, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise PackagingError(f"manifest: a value cannot be written as JSON: {error}.") from error


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """The installed version of each distribution, and of "python". PackagingError names one that is not installed."""
    try:
        return {name: platform.python_version() if name == "python" else metadata.version(name) for name in names}
    except metadata.PackageNotFoundError as error:
        raise PackagingError(f"{error.name} is not installed, so it has no version to record.") from error
