"""The manifest: what an artefact is, where it came from, how it was verified, and each file's hash.

`Manifest` names every field; `check_manifest` holds one against it, and `upgraded` brings an older one to today's form.
"""

from __future__ import annotations

import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from utils.artefact.typed import Count, Must, Text, check, misfit
from utils.errors import PackagingError
from utils.families.variants import BESIDE, Preprocessing, Variant
from utils.parity.judge import Row

SCHEMA = 1  # raised when a field changes its meaning; a new field needs no new number

# Both tell of the other files' hashes, so they cannot be among them.
UNLISTED = ("assets.extra/manifest.json", "assets.extra/README.md")

# What stands for the model itself in `files`, by the manifest's `format`.
_MAIN = {"saved_model": "saved_model.pb", "tflite": "model.tflite"}
# What another run of the same conversion would measure otherwise. The tarball must not depend on it.
_MEASURED = ("seconds", "peak_memory_mb", "peak_memory_mb_by_stage", "parity", "preprocessing_parity")
# What lies beside the artefact; only the manifest beside it has these fields.
_BESIDE = ("tarball", *BESIDE)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_OF_VARIANT = (
    *("family", "labels", "trained_on", "top1", "top1_source", "testing"),
    *("licence", "licence_url", "paper", "paper_url", "upstream_url", "citation"),
)

Name = Annotated[str, Must(_NAME.fullmatch, "letters, digits, - and _, with a letter or digit first")]
Sha256 = Annotated[str, Must(_SHA256.fullmatch, "a SHA-256 in hexadecimal")]
Head = Literal["classification", "fe"]
Weights = Literal["official", "synthetic", "custom"]
Version = Annotated[Any, Must(lambda value: (isinstance(value, str) and value) or type(value) is int, "a version")]
Measured = Annotated[float, Must(lambda value: value >= 0, "a number of at least 0")]


class Origin(TypedDict):
    """Where the checkpoint came from; neither url nor path is known of every one."""

    url: str | None
    path: NotRequired[str | None]
    sha256: Sha256


class Tensor(TypedDict):
    """One input or output of a signature; a size of None is any, a shape of None is any too."""

    dtype: str
    shape: list[int | None] | None


class Signature(TypedDict):
    """A signature's tensors by name."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class ImagePreparation(TypedDict):
    """`Preprocessing`, as it stands in a file."""

    resize: int
    crop: int
    mean: list[float]
    std: list[float]
    interpolation: str


class Model(TypedDict):
    """The variant's facts, which a `.keras` or `.onnx` file has too."""

    family: str
    trained_on: str
    licence: str
    licence_url: str
    paper: str
    paper_url: str
    upstream_url: str
    citation: str
    architecture: dict[str, Any]
    preprocessing: ImagePreparation


class RatedModel(Model):
    """The same with what the official weights are known for."""

    labels: str | None
    top1: float | None
    top1_source: str
    testing: NotRequired[bool]


class Case(TypedDict):
    """What was compared, without figures."""

    output: str
    input: str
    batch: int
    arrays: int


class Parity(TypedDict):
    """A report of comparisons: `rows` beside the artefact, `compared` inside it, whose bytes depend on no figure."""

    passed: bool
    tolerance: dict[str, float]
    ratio: NotRequired[dict[str, float]]
    framework: NotRequired[str]
    sentence: NotRequired[str]
    rows: NotRequired[list[Row]]
    compared: NotRequired[list[Case]]


class FileBeside(TypedDict):
    """A file that is published with the artefact."""

    sha256: Sha256
    bytes: NotRequired[int]


class Derived(TypedDict):
    """The artefact that a smaller file was made from."""

    name: Name
    files: dict[str, Sha256]


class Facts(TypedDict):
    """What every published file says of its model."""

    schema: NotRequired[Count]
    name: Name
    variant: Text
    head: Head
    weights: Weights
    source: Origin
    parameters: Count
    training: NotRequired[dict[str, Any] | None]


class Manifest(Facts):
    """The manifest of a SavedModel, or of a TFLite file; figures of the run only in the one beside it."""

    format: NotRequired[Literal["saved_model", "tflite"]]
    operations: NotRequired[str | None]
    minimum_tensorflow: NotRequired[Text]
    platforms: NotRequired[list[Text]]
    versions: dict[str, Version]
    signatures: dict[str, Signature]
    parity: Parity
    preprocessing_parity: NotRequired[Parity]
    seconds: NotRequired[dict[str, Measured]]
    peak_memory_mb: NotRequired[Annotated[float, Must(lambda value: value > 0, "a number above 0")]]
    peak_memory_mb_by_stage: NotRequired[dict[str, Measured]]
    files: dict[str, Sha256]
    model: RatedModel
    settings: NotRequired[dict[str, Any]]
    notes: NotRequired[list[str]]
    storage: NotRequired[str]
    derived_from: NotRequired[Derived]
    operators: NotRequired[dict[str, int]]
    tarball: NotRequired[FileBeside]
    keras: NotRequired[FileBeside]
    onnx: NotRequired[FileBeside]


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
    """The manifest of a SavedModel as a dict for JSON, checked. The card is made from it alone.

    Args:
        name: the artefact's.
        variant: its details (licence, paper, architecture) are copied under `model`.
        head: "classification" or "fe".
        weights: "official", "synthetic" or "custom".
        source: `url` and `path` (either may be None) and `sha256` of the checkpoint.
        versions: of each library, and what the exporter adds; `minimum_tensorflow` and `platforms` become fields.
        parameters: their count.
        signatures: as `describe_signatures`.
        parity: `Report.to_json()`.
        seconds: by stage.
        peak_memory_mb: of the whole conversion.
        files: what parity was run on, as `Staging.files`.
        peak_memory_mb_by_stage: the same by stage.
        preprocessing: what the artefact expects, if not the variant's own.
        settings: parameters worth keeping (image_size, seed, operations).
        training: of a fine-tuned model, its history, data set and settings.
        preprocessing_parity: as `parity`, of the graph's preprocessing against Pillow's, in levels of 0 to 255.
        notes: what reading the checkpoint had to tell.

    Raises:
        PackagingError: for a value that fits no field, or that JSON cannot hold.
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
    manifest = upgraded(json.loads(manifest_text(manifest)))  # tuples become lists, as they are in the file
    check_manifest(manifest)
    return manifest


def check_manifest(manifest: Mapping[str, Any], where: str = "manifest") -> list[str]:
    """The paths of fields that this version does not know; a manifest from inside an artefact passes too.

    PackagingError, which names `where` and the field's path, for one that is missing, wrong, or does not fit another.
    """
    unknown = check(dict(manifest), Manifest, where)
    ending = f"_{manifest['storage']}" if manifest.get("storage") else ""
    synthetic, main = manifest["weights"] == "synthetic", _MAIN[manifest.get("format", "saved_model")]
    if manifest["name"].removesuffix(ending).endswith("_synthetic") != synthetic:
        words = "_synthetic at its end, as the weights are" if synthetic else "no _synthetic at its end"
        raise misfit(where, "name", manifest["name"], words)
    if manifest["weights"] == "official" and not manifest["source"]["url"]:
        raise misfit(where, "source.url", manifest["source"]["url"], "the official file's address")
    if not manifest["versions"]:
        raise misfit(where, "versions", {}, "the version of each library")
    if "serving_default" not in manifest["signatures"]:
        raise PackagingError(f"{where}: signatures.serving_default is missing.")
    if main not in manifest["files"] or any(path in manifest["files"] for path in UNLISTED):
        words = f"the SHA-256 of {main} and all but {' and '.join(UNLISTED)}"
        raise misfit(where, "files", list(manifest["files"]), words)
    if not is_packed(manifest):
        for field in ("seconds", "peak_memory_mb"):
            if not manifest.get(field):
                raise PackagingError(f"{where}: {field} is missing.")
    for field in ("parity", "preprocessing_parity"):
        if field in manifest and not _passed(manifest[field]):
            raise misfit(where, field, manifest[field], "a report that passed, with at least one row and none failed")
    return unknown


def _passed(parity: Mapping[str, Any]) -> bool:
    compared = parity.get("compared") or parity.get("rows")
    return parity["passed"] and bool(compared) and all(row.get("passed", True) for row in compared)


def check_name(name: object) -> None:
    """PackagingError unless `name` may be an artefact's: it becomes part of file names."""
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise PackagingError(f"name = {name!r}: expected letters, digits, - and _, with a letter or digit first.")


def upgraded(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest with the fields of today's schema.

    Before schema 1, `versions` also held the least TensorFlow and the platforms, and the kind of operations had to be
    told from whether it named StableHLO's version.
    """
    if "schema" in manifest:
        return dict(manifest)
    versions, found = dict(manifest["versions"]), {}
    if least := versions.pop("minimum_tensorflow", None):
        found["minimum_tensorflow"] = str(least)
    if platforms := versions.pop("platforms", None):
        found["platforms"] = str(platforms).split(", ")
    operations = (manifest.get("settings") or {}).get("operations")
    if isinstance(operations, str):
        found["operations"] = operations
    elif "stablehlo_version" in versions:
        found["operations"] = "xla"
    kept = dict(manifest) | {"versions": versions, "format": manifest.get("format", "saved_model")}
    return {"schema": SCHEMA} | kept | found


def requirements(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from how a SavedModel was exported: a model that is fine-tuned from it needs the same."""
    return {key: manifest[key] for key in ("operations", "minimum_tensorflow", "platforms") if key in manifest}


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
    return "compared" in manifest["parity"]


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
