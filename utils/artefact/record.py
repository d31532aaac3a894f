"""What a `.keras` or `.onnx` file says of its model: whose weights, how images are prepared, what it must compute.

Field by field as in a manifest, where a manifest has it; `labels` and `golden` are the SavedModel's files of that name.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, NotRequired

from utils.artefact.card_head import licence
from utils.artefact.manifest import SCHEMA, Facts, Model, manifest_text
from utils.artefact.typed import Count, Must, Text, check, misfit
from utils.errors import PackagingError
from utils.families import FAMILIES
from utils.families.variants import OUTPUTS, Preprocessing, Variant
from utils.parity.golden import Golden, golden_bytes, read_golden

# The fields that are more than text; ONNX has text alone.
_JSON = ("schema", "source", "parameters", "units", "image_size", "model", "labels", "tolerance", "training")
_OF_VARIANT = ("family", "trained_on", "licence", "licence_url", "paper", "paper_url", "upstream_url", "citation")


class Record(Facts):
    """What the file says of its model besides the facts that a manifest has too."""

    output: Literal["logits", "features"]
    units: Count
    image_size: int
    model: Model
    tolerance: Annotated[float, Must(lambda value: 0 < value < 1, "a number between 0 and 1")]
    golden: Text
    labels: NotRequired[list[tuple[str, str]] | None]
    activation: NotRequired[str]


def build_record(
    *,
    name: str,
    variant: Variant,
    head: str,
    weights: str,
    source: Mapping[str, str | None],
    parameters: int,
    units: int,
    image_size: int,
    preprocessing: Preprocessing,
    labels: Sequence[tuple[str, str]] | None,
    golden: Golden,
    tolerance: float,
    training: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record, for JSON.

    weights: "official", "synthetic" or "custom"; source: the checkpoint's url, name and SHA-256. parameters: how many
    numbers are trained. units: classes, or features. image_size: 0 for any.
    labels: WordNet id and name of each class, in the outputs' order. tolerance: how far the golden outputs may be off.
    training: of a fine-tuned model, the data set and the extractor.
    """
    activation = getattr(variant.architecture, "activation", "gelu")
    record = {
        "schema": SCHEMA,
        "name": name,
        "variant": variant.name,
        "head": head,
        "output": OUTPUTS[head],
        "weights": weights,
        "source": dict(source),
        "parameters": parameters,
        "units": units,
        "image_size": image_size,
        "activation": f"gelu, {FAMILIES[variant.family].gelu}" if activation == "gelu" else activation,
        "model": {key: getattr(variant, key) for key in _OF_VARIANT}
        | {"architecture": asdict(variant.architecture), "preprocessing": asdict(preprocessing)},
        "labels": [list(label) for label in labels] if labels and head == "classification" else None,
        "tolerance": tolerance,
        "training": dict(training) if training else None,
        "golden": base64.b64encode(golden_bytes(golden)).decode(),
    }
    return json.loads(manifest_text(record))  # tuples become lists, as they are in the file


def check_record(record: Mapping[str, Any], where: str) -> None:
    """PackagingError, naming `where` and the field, for one that is missing or makes no sense to this version."""
    check(dict(record), Record, where)
    if record["model"]["family"] not in FAMILIES:
        raise misfit(where, "model.family", record["model"]["family"], f"one of {', '.join(FAMILIES)}")
    labels = record.get("labels")
    if labels is not None and len(labels) != record["units"]:
        raise misfit(where, "labels", labels, f"one for each of {record['units']} units")


def record_as_texts(record: Mapping[str, Any]) -> dict[str, str]:
    """The record for what knows only texts by name, as ONNX does; others than texts as JSON, without what is None.

    One is added, since `model` tells of the source model whosever the weights are: `licence`, of the weights.
    """
    told = {key: value for key, value in record.items() if value is not None} | {"licence": licence(record)[0]}
    return {key: json.dumps(value, ensure_ascii=False) if key in _JSON else value for key, value in told.items()}


def record_from_texts(texts: Mapping[str, str], where: str) -> dict[str, Any]:
    """The record again. PackagingError, naming `where`, for a field that is no JSON and should be."""
    found = {}
    for key, text in texts.items():
        try:
            found[key] = json.loads(text) if key in _JSON else text
        except (ValueError, RecursionError) as error:
            raise PackagingError(f"{where}: {key} in its record is not JSON: {error}. Get the file again.") from error
    return found


def golden_of(record: Mapping[str, Any], where: str) -> Golden:
    """The golden inputs and outputs. PackagingError, naming `where`, for what are none."""
    try:
        data = base64.b64decode(record["golden"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackagingError(f"{where}: its golden data are damaged: {error}. Get the file again.") from error
    return read_golden(data, where)
