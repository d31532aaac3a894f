"""What a `.keras` or `.onnx` file says of its model: whose weights, how images are prepared, what it must compute.

Field by field as in a manifest, where a manifest has it; `labels` and `golden` are the SavedModel's files of that name.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from utils.artefact.manifest import SCHEMA, Facts, Model, licence, manifest_text, model_facts
from utils.artefact.typed import Count, Must, Text, check, misfit
from utils.errors import PackagingError
from utils.families import FAMILIES
from utils.families.variants import OUTPUTS, Preprocessing, Variant
from utils.parity.golden import Golden, golden_bytes, read_golden

# The fields that are more than text; ONNX has text alone.
_JSON = ("schema", "source", "parameters", "units", "image_size", "model", "labels", "tolerance", "training")


class Record(Facts):
    """What the file says of its model besides the facts that a manifest has too. labels: WordNet id and name."""

    output: Literal["logits", "features"]
    units: Count
    image_size: Annotated[int, Must(lambda value: value >= 0, "pixels, or 0 for any")]
    model: Model
    tolerance: Annotated[float, Must(lambda value: 0 < value < 1, "a number between 0 and 1")]
    golden: Text
    labels: NotRequired[list[tuple[str, str]] | None]
    activation: NotRequired[str]


def build_record(variant: Variant, preprocessing: Preprocessing, golden: Golden, **fields: Any) -> dict[str, Any]:
    """The record, for JSON.

    Args:
        variant: The model's.
        preprocessing: What the file expects.
        golden: What it must compute.
        fields: `name`, `head`, `weights`, `source`, `parameters`, `units`, `image_size` (0 for any), `labels` and
            `tolerance`, of a fine-tuned model `training` too, as in `Record`.
    """
    head = fields["head"]
    record = {
        "schema": SCHEMA,
        "name": fields["name"],
        "variant": variant.name,
        "head": head,
        "output": OUTPUTS[head],
        **{key: fields[key] for key in ("weights", "source", "parameters", "units", "image_size")},
        "activation": variant.architecture.activation,
        "model": model_facts(variant, preprocessing),
        "labels": (fields["labels"] or None) if head == "classification" else None,
        "tolerance": fields["tolerance"],
        "training": fields.get("training"),
        "golden": base64.b64encode(golden_bytes(golden)).decode(),
    }
    return json.loads(manifest_text(record))  # tuples become lists, as they are in the file


def check_record(record: Mapping[str, Any], where: str) -> None:
    """PackagingError, naming `where` and the field, for one that is missing or makes no sense to this version."""
    check(dict(record), Record, where)
    if record["model"]["family"] not in FAMILIES:
        raise misfit(where, "model.family", record["model"]["family"], f"one of {', '.join(FAMILIES)}")
    synthetic = record["weights"] == "synthetic"
    if record["name"].endswith("_synthetic") != synthetic:
        raise misfit(where, "name", record["name"], f"{'' if synthetic else 'no '}_synthetic at its end")
    if record["weights"] == "official" and not record["source"]["url"]:
        raise misfit(where, "source", record["source"], "the official file's url")
    if record["output"] != OUTPUTS[record["head"]]:
        raise misfit(where, "output", record["output"], f"{OUTPUTS[record['head']]}, as the head is {record['head']}")
    labels = record.get("labels")
    if labels is not None and len(labels) != record["units"]:
        raise misfit(where, "labels", labels, f"one for each of {record['units']} units")


def record_as_texts(record: Mapping[str, Any]) -> dict[str, str]:
    """The record as a flat mapping of texts, for ONNX. Others than texts are JSON; None is left out.

    Also adds `licence`, the licence of the weights; `model` only describes the architecture's authors.
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
    """The golden inputs and outputs. PackagingError, naming `where`, for what are none, or another model's.

    record: checked.
    """
    try:
        data = base64.b64decode(record["golden"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackagingError(f"{where}: its golden data are damaged: {error}. Get the file again.") from error
    golden = read_golden(data, where)
    sides, units, channels = golden.size.tolist(), golden.outputs.shape[1], golden.coarse.shape[3]
    told = record["units"], len(record["model"]["preprocessing"]["mean"])
    if (units, channels) != told or (record["image_size"] and sides != [record["image_size"]] * 2):
        raise PackagingError(
            f"{where}: its golden data are {units} outputs of images of {sides} pixels and {channels} channels, and "
            f"its record says {told[0]} of {record['image_size'] or 'any size'} and {told[1]}. Get the file again."
        )
    return golden
