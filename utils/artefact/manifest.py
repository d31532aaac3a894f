"""The manifest: what an artefact is, where it came from, how it was verified, and each file's hash.

`Manifest` names every field; `check_manifest` holds one against it, and `upgraded` brings an older one to today's form.
"""

from __future__ import annotations

import functools
import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib import metadata
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from utils.artefact.typed import Count, Must, Text, check, misfit
from utils.errors import PackagingError
from utils.families import FAMILIES
from utils.families.variants import BESIDE, NAME, ORIGINS, OWN, Preprocessing, Variant
from utils.parity.judge import Row

PUBLISHER = "mixers-to-tensorflow"
REPOSITORY = f"https://github.com/{PUBLISHER}/mixers-to-tensorflow"

SCHEMA = 1  # raised when a field changes its meaning; a new field needs no new number

# Both tell of the other files' hashes, so they cannot be among them.
UNLISTED = ("assets.extra/manifest.json", "assets.extra/README.md")

# What stands for the model itself in `files`, by the manifest's `format`.
_MAIN = {"saved_model": "saved_model.pb", "tflite": "model.tflite"}
# What another run of the same conversion would measure otherwise. The tarball must not depend on it.
_MEASURED = ("seconds", "peak_memory_mb", "peak_memory_mb_by_stage", "parity", "preprocessing_parity")
# What lies beside the artefact; only the manifest beside it has these fields.
_BESIDE = ("tarball", *BESIDE)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RATED = ("labels", "top1", "top1_source", "testing")
_MODEL = (
    *("family", "labels", "trained_on", "top1", "top1_source", "testing"),
    *("licence", "licence_url", "paper", "paper_url", "upstream_url", "citation", "architecture", "preprocessing"),
)
# What `build_manifest` writes, in the order of the file.
_BUILT = (
    *("name", "variant", "head", "weights", "source", "versions", "parameters", "signatures", "parity", "seconds"),
    "reference",
    *("peak_memory_mb", "files", "model", "peak_memory_mb_by_stage", "settings", "training", "preprocessing_parity"),
    *("notes", "names"),
)
# What the trainer of one's own checkpoint knows, by where it stands in `model`; and what `source` there sums up.
TOLD = {
    "architecture": ("activation", "epsilon"),
    "preprocessing": ("crop_pct", "image_size", "interpolation", "mean", "std"),
}
_SUMMED_UP = {"architecture": TOLD["architecture"], "preprocessing": ("mean", "std")}

Name = Annotated[str, Must(NAME.fullmatch, "letters, digits, - and _, with a letter or digit first")]
Sha256 = Annotated[str, Must(_SHA256.fullmatch, "a SHA-256 in hexadecimal")]
Head = Literal["classification", "fe"]
Weights = Literal["official", "synthetic", "custom"]
Teller = Literal["given", "file", "assumed"]  # one of `variants.ORIGINS`
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


class Sources(TypedDict):
    """Who says how one's own model was trained, by parameter; nothing of it where the model's authors do.

    source: the weakest, of an architecture's parameters, or of mean and std.
    """

    source: NotRequired[Teller]
    sources: NotRequired[dict[str, Teller]]


class ImagePreparation(Sources):
    """`Preprocessing`, as it stands in a file."""

    resize: int
    crop: int
    mean: list[float]
    std: list[float]
    interpolation: str


class Model(TypedDict):
    """The variant's facts, which a `.keras` or `.onnx` file has too. architecture: its sizes, and `Sources`."""

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


class MakersAnswers(TypedDict):
    """What answers of the maker's own code prove; errors, relative in the L2 norm, only beside the artefact."""

    sha256: Sha256
    verdict: Literal["proved", "not proved"]
    inputs: Count
    error: NotRequired[Measured]
    image_verdict: NotRequired[Literal["proved", "not proved"]]
    images: NotRequired[Count]
    image_error: NotRequired[Measured]


class FileBeside(TypedDict):
    """A file that is published with the artefact."""

    sha256: Sha256
    bytes: NotRequired[int]


class Derived(TypedDict):
    """The artefact that a smaller file was made from."""

    name: Name
    files: dict[str, Sha256]


class Facts(TypedDict):
    """What every published file says of its model. licence: of custom weights, once their maker has named it."""

    schema: NotRequired[Count]
    name: Name
    variant: Text
    head: Head
    weights: Weights
    source: Origin
    parameters: Count
    training: NotRequired[dict[str, Any] | None]
    licence: NotRequired[Text]


class Manifest(Facts):
    """The manifest of a SavedModel, or of a TFLite file; figures of the run only in the one beside it.

    names: of one's own checkpoint, the file's names by the model's.
    """

    format: NotRequired[Literal["saved_model", "tflite"]]
    operations: NotRequired[str | None]
    minimum_tensorflow: NotRequired[Text]
    platforms: NotRequired[list[Text]]
    versions: dict[str, Version]
    signatures: dict[str, Signature]
    parity: Parity
    preprocessing_parity: NotRequired[Parity]
    reference: NotRequired[MakersAnswers]
    seconds: NotRequired[dict[str, Measured]]
    peak_memory_mb: NotRequired[Annotated[float, Must(lambda value: value > 0, "a number above 0")]]
    peak_memory_mb_by_stage: NotRequired[dict[str, Measured]]
    files: dict[str, Sha256]
    model: RatedModel
    settings: NotRequired[dict[str, Any]]
    notes: NotRequired[list[str]]
    names: NotRequired[dict[str, str]]
    storage: NotRequired[str]
    derived_from: NotRequired[Derived]
    operators: NotRequired[dict[str, int]]
    tarball: NotRequired[FileBeside]
    keras: NotRequired[FileBeside]
    onnx: NotRequired[FileBeside]


def build_manifest(variant: Variant, preprocessing: Preprocessing | None = None, **fields: Any) -> dict[str, Any]:
    """The manifest of a SavedModel as a dict for JSON, checked. The card is made from it alone.

    Args:
        variant: The model's; what is known of it (licence, paper, architecture) becomes the field `model`.
        preprocessing: What the artefact expects, if not the variant's own.
        fields: The other fields of `Manifest`; None and no notes are left out. `versions` may also have an exporter's
            `minimum_tensorflow` and `platforms`, which become fields.

    Raises:
        PackagingError: For a value that fits no field, or that JSON cannot hold.
    """
    model = model_facts(variant, preprocessing or variant.preprocessing, rated=True)
    if fields["weights"] == "custom":  # whose classes are those of its labels.tsv
        model |= {"labels": None, "top1": None, "trained_on": "not known: a local checkpoint file"}
    fields |= {
        "variant": variant.name,
        "model": model,
        "source": {key: fields["source"].get(key) for key in ("url", "path", "sha256")},
        "seconds": {stage: round(value, 3) for stage, value in fields["seconds"].items()},
        "notes": list(fields.get("notes", ())) or None,
    }
    surplus = fields.keys() - set(_BUILT)
    if surplus:
        raise PackagingError(f"manifest: {', '.join(sorted(surplus))} is no field that it is built from.")
    manifest = {key: fields[key] for key in _BUILT if fields.get(key) is not None}
    manifest = upgraded(json.loads(manifest_text(manifest)))  # tuples become lists, as they are in the file
    check_manifest(manifest)
    return manifest


def model_facts(variant: Variant, preprocessing: Preprocessing, rated: bool = False) -> dict[str, Any]:
    """The field `model`. rated: as a `RatedModel`."""
    facts = asdict(replace(variant, preprocessing=preprocessing))
    if variant.origins:
        for part, parameters in TOLD.items():
            sources = {key: variant.origins[key] for key in parameters}
            facts[part] |= {"source": _weakest(sources, part), "sources": sources}
    return {key: facts[key] for key in _MODEL if rated or key not in _RATED}


def _weakest(sources: Mapping[str, str], part: str) -> str:
    return max((sources.get(key, "assumed") for key in _SUMMED_UP[part]), key=ORIGINS.index)


def check_manifest(manifest: Mapping[str, Any], where: str = "manifest") -> list[str]:
    """The paths of fields that this version does not know; a manifest from inside an artefact passes too.

    PackagingError, which names `where` and the field's path, for one that is missing, wrong, or does not fit another.
    """
    unknown = check(dict(manifest), Manifest, where)
    check_facts(manifest, where)
    ending = f"_{manifest['storage']}" if manifest.get("storage") else ""
    synthetic, main = manifest["weights"] == "synthetic", _MAIN[manifest.get("format", "saved_model")]
    files, passed = manifest["files"], "a report that passed, with at least one row and none failed"
    rules = [
        (
            "name",
            manifest["name"].removesuffix(ending).endswith("_synthetic") == synthetic,
            f"{'' if synthetic else 'no '}_synthetic at its end, as the weights are {manifest['weights']}",
        ),
        ("versions", manifest["versions"], "the version of each library"),
        (
            "signatures",
            manifest["signatures"].get("serving_default", {}).get("outputs"),
            "a serving_default with outputs among them",
        ),
        (
            "files",
            main in files and not any(path in files for path in UNLISTED),
            f"the SHA-256 of {main} and of all but {' and '.join(UNLISTED)}",
        ),
        ("seconds", is_packed(manifest) or manifest.get("seconds"), "how long each stage took"),
        ("peak_memory_mb", is_packed(manifest) or "peak_memory_mb" in manifest, "a number above 0"),
        ("parity", _passed(manifest["parity"]), passed),
        ("parity.tolerance", _sound(manifest), "above 0, and below 1 for what the model gives"),
        ("preprocessing_parity", _passed(manifest.get("preprocessing_parity", manifest["parity"])), passed),
    ]
    for field, holds, words in rules:
        if not holds:
            value = functools.reduce(lambda found, key: found.get(key), field.split("."), manifest)
            raise misfit(where, field, value, words)
    return unknown


def check_facts(facts: Mapping[str, Any], where: str) -> None:
    """PackagingError, as `check_manifest`, for facts of a manifest or a record that do not fit one another."""
    model, weights = facts["model"], facts["weights"]
    check(model["architecture"], Sources, where, "model.architecture")
    if model["family"] not in FAMILIES:
        raise misfit(where, "model.family", model["family"], f"one of {', '.join(FAMILIES)}")
    if weights == "official" and not facts["source"]["url"]:
        raise misfit(where, "source", facts["source"], "the official file's url")
    if facts["variant"] == OWN and weights != "custom":
        raise misfit(where, "weights", weights, f"custom, as the variant is {OWN}")
    for part in TOLD:
        told = model[part]
        weakest = _weakest(told.get("sources", {}), part)
        if told.keys() & Sources.__annotations__.keys() and told.get("source") != weakest:
            raise misfit(where, f"model.{part}.source", told.get("source"), f"{weakest}, as its sources say")


def _sound(manifest: Mapping[str, Any]) -> bool:
    """Whether each figure is held against something, and the model's own outputs against what means something."""
    parity, outputs = manifest["parity"], manifest["signatures"].get("serving_default", {}).get("outputs", {})
    own = [value for output, value in parity["tolerance"].items() if output in outputs]
    return all(0 < value < 1 for value in own) and all(row["tolerance"] > 0 for row in parity.get("rows", ()))


def _passed(parity: Mapping[str, Any]) -> bool:
    compared = parity.get("compared") or parity.get("rows")
    return parity["passed"] and bool(compared) and all(row.get("passed", True) for row in compared)


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


def licence(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """Name and address of the weights' licence: their authors' or their maker's, "custom" if it is not known here."""
    model = manifest["model"]
    return {
        "official": (model["licence"], model["licence_url"]),
        "custom": (manifest.get("licence", "custom"), ""),
        "synthetic": ("Apache-2.0", f"{REPOSITORY}/blob/main/LICENSE"),  # this repository made them
    }[manifest["weights"]]


def requirements(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from how a SavedModel was exported: a model that is fine-tuned from it needs the same."""
    return {key: manifest[key] for key in ("operations", "minimum_tensorflow", "platforms") if key in manifest}


def packed_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest that travels inside the artefact: without figures of the run, so that a rerun gives the same bytes.

    `parity` says what was compared, that it passed, and the outputs' tolerance; figures and the other tolerances (some
    are measured too) stand in the manifest beside the tarball. PackagingError if this is such a manifest already.
    """
    if is_packed(manifest):
        raise PackagingError(f"the manifest of {manifest['name']} has no figures: it is one from inside an artefact.")
    compared = Counter((row["output"], row["input"], row["batch"]) for row in manifest["parity"]["rows"])
    rows = [{"output": o, "input": i, "batch": b, "arrays": count} for (o, i, b), count in compared.items()]
    kept = {key: value for key, value in manifest.items() if key not in (*_MEASURED, *_BESIDE)}
    outputs = manifest["signatures"]["serving_default"]["outputs"]
    tolerance = {key: value for key, value in manifest["parity"]["tolerance"].items() if key in outputs}
    if "reference" in kept:
        figures = ("error", "image_error")
        kept["reference"] = {key: value for key, value in kept["reference"].items() if key not in figures}
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
