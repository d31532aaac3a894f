"""Makes the TFLite models of a published artefact.

The source framework is not needed: the artefact carries its outputs as golden data. Each file, as users will get it,
is compared with them by a tolerance of its own.

The same artefact gives the same bytes in a process of its own. So measurements go only into the manifest beside the
file; the tolerance also goes inside, because `verify` needs it.

The tolerance: rounding the float32 model's kernels alone moves the golden outputs by some amount, which is measured
first. The smaller file may be off by that times a factor, plus the float32 gate's tolerance. The factor leaves room for
what was not simulated: TFLite multiplies BatchNorm into kernels before it rounds them, and with int8 rounds activations
too. A wrong operation shows already in the float32 file, whose tolerance is far smaller.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from utils.artefact import lite_file
from utils.artefact.identity import require_same_origin
from utils.artefact.manifest import check_manifest, installed_versions, manifest_text, packed_manifest
from utils.artefact.opening import Pretrained
from utils.artefact.placing import explained, make_folder
from utils.errors import ConversionError, PackagingError
from utils.export.saved_model import Candidate, as_function, load_model, save_model
from utils.families import FAMILIES
from utils.files import hash_file
from utils.machine.measure import Stages
from utils.parity import comparison
from utils.parity.judge import OUTPUT_TOLERANCE, rounded_up
from utils.parity.report import Report
from utils.smaller.lite import convert_to_lite, normalising, operators, rounded
from utils.smaller.metadata import with_metadata
from utils.verify.numbers import golden_of, lite_function

# At most 1.7 times what rounding does was seen at full size, and 2.4 times with the tiny models.
FACTORS = {"float32": 0, "float16": 3, "int8": 4}  # int8 rounds activations too
# What a SavedModel needs, and a TFLite file does not; which runtime reads that is not known beforehand.
_OF_SAVED_MODELS = ("minimum_tensorflow", "platforms")
_VERSIONS_OF_SAVED_MODELS = ("stablehlo_version", "calling_convention_version")


def make_lite(artefact: Pretrained, storage: str, output_dir: Path, overwrite: bool = False) -> Path:
    """Publishes `<name>_<storage>.tflite` and its manifest, `….tflite.json`; returns the model's path.

    Args:
        artefact: what it is made from.
        storage: "float32", "float16" or "int8".
        output_dir: where the files go.
        overwrite: take the place of a file of that name whatever that was made from.

    Raises:
        PackagingError: as `require_same_origin`.
        ParityError: with the figures. ConversionError: TFLite cannot express the model. Then nothing is left.
    """
    name, output_dir = f"{artefact.name}_{storage}", Path(output_dir).expanduser().absolute()
    path = output_dir / f"{name}.tflite"
    if not overwrite:
        require_same_origin(path, artefact.manifest)
    # The twin, what takes levels, the model, and the model packed.
    scratch, lock = make_folder(output_dir, f"{name}.tflite", needed_bytes=16 * artefact.manifest["parameters"])
    try:
        with explained(output_dir):
            packed, manifest = _make(artefact, storage, name, scratch)
            (scratch / "json").write_text(manifest, encoding="utf-8")
            beside = output_dir / f"{name}.tflite.json"
            beside.unlink(missing_ok=True)  # where a manifest is, its model is
            os.replace(packed, path)
            os.replace(scratch / "json", beside)
            return path
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.close()


def _make(artefact: Pretrained, storage: str, name: str, scratch: Path) -> tuple[Path, str]:
    """The file in the folder `scratch`, verified, and the manifest for beside it."""
    stages = Stages()
    with stages("load"):
        model = load_model(artefact.folder)
        folder = _in_plain_operations(artefact, model, scratch)
        tolerance = _tolerance(artefact, model, storage)
        del model
    with stages("export"):
        content = convert_to_lite(folder, storage, artefact.preprocessing, scratch)
        used = Counter(operators(content))
        if foreign := sorted(op for op in used if op.startswith("Flex") or op == "CUSTOM"):
            raise ConversionError(f"{name}: TFLite has no operations of its own for {', '.join(foreign)}.")
    with stages("save"):
        extras = (artefact.folder / "assets.extra" / file for file in (lite_file.GOLDEN, lite_file.LABELS))
        associated = {path.name: path.read_bytes() for path in extras if path.is_file()}
        if artefact.labels:
            associated[lite_file.NAMES] = "".join(f"{label}\n" for label in artefact.names).encode()
        if artefact.image_size and artefact.preprocessing.takes_photographs:  # which MediaPipe asks the file
            content = with_metadata(content, artefact, name, lite_file.NAMES if artefact.labels else None)
        model_path = scratch / lite_file.MODEL
        model_path.write_bytes(content)
        del content
    with stages("verify"):
        report = _compared(artefact, model_path, tolerance)
        report.require()
    files = {lite_file.MODEL: hash_file(model_path)}
    files |= {key: hashlib.sha256(data).hexdigest() for key, data in associated.items()}
    facts = {"operators": dict(sorted(used.items())), "parity": report.to_json(), "files": files}
    manifest = _derived(artefact, name, storage, stages) | facts
    check_manifest(manifest)
    inside = {lite_file.MANIFEST: manifest_text(packed_manifest(manifest)).encode(), **associated}
    return lite_file.pack_lite(model_path, inside, scratch / "packed"), manifest_text(manifest)


def _in_plain_operations(artefact: Pretrained, model: Any, scratch: Path) -> Path:
    """The SavedModel that TFLite converts: the artefact's own, or for a Mixer in XLA operations its plain twin.

    TFLite's converter takes `XlaCallModule`, but spells out every broadcast and every GELU: four times the operators.
    """
    manifest = artefact.manifest
    family = FAMILIES[manifest["model"]["family"]]
    if "plain" not in family.operations or manifest.get("operations") != "xla":
        return artefact.folder
    exported = family.models.plain(artefact.architecture, manifest["head"], Candidate(model).variables())
    return save_model(exported, scratch / "plain")


def _tolerance(artefact: Pretrained, model: Any, storage: str) -> float:
    """Rounds the model's kernels as `storage` does, and leaves them so; what comes of it sets the tolerance.

    TFLite has every constant in float16 with that, which tells: a rounded BatchNorm scale moves a whole channel. So
    biases, scales and statistics are rounded as well then, and what normalises levels.
    """
    every = storage == "float16"
    for variable in model.variables:
        if every or len(variable.shape) >= 2:
            variable.assign(rounded(variable.numpy(), storage))
    golden, preprocessing = golden_of(artefact.folder), artefact.preprocessing
    inputs = golden.inputs
    if every:
        subtracted, scale = (rounded(constant, storage) for constant in normalising(preprocessing))
        inputs = (inputs * np.float32(preprocessing.std) + np.float32(preprocessing.mean) - subtracted) * scale
    moved = np.linalg.norm(as_function(model)(inputs) - golden.outputs) / np.linalg.norm(golden.outputs)
    if not np.isfinite(moved):
        raise PackagingError(f"{artefact.name}: with kernels rounded to {storage} its outputs overflow.")
    # Rounded up, because it is part of the file: another processor moves the outputs by other last digits.
    base = max(OUTPUT_TOLERANCE, float(artefact.manifest["parity"]["tolerance"][artefact.output]))
    return rounded_up(base + FACTORS[storage] * float(moved), digits=2)


def _compared(artefact: Pretrained, model: Path, tolerance: float) -> Report:
    """All golden images at once, and the first one alone."""
    golden, output, run = golden_of(artefact.folder), artefact.output, lite_function(model, artefact.preprocessing)
    rows = []
    for count in sorted({len(golden.inputs), 1}, reverse=True):
        rows += comparison.compare_outputs(
            lambda batch: golden.outputs[: len(batch)],
            lambda batch: run(batch)[output],
            {"golden": golden.inputs[:count]},
            output,
            tolerance,
        )
    return Report(rows)


def _derived(artefact: Pretrained, name: str, storage: str, stages: Stages) -> dict[str, Any]:
    """The artefact's manifest with what is another's in the smaller file, all but `operators`, `parity` and `files`."""
    manifest = {key: value for key, value in artefact.manifest.items() if key not in _OF_SAVED_MODELS}
    versions = {k: v for k, v in manifest["versions"].items() if k not in _VERSIONS_OF_SAVED_MODELS}
    default = manifest["signatures"]["serving_default"]
    return manifest | {
        "name": name,
        "storage": storage,
        "derived_from": {"name": artefact.name, "files": manifest["files"]},
        "format": "tflite",
        "versions": versions | installed_versions(["tensorflow", "numpy", "ai-edge-litert"]),  # the last one ran it
        "signatures": {"serving_default": default | {"inputs": {"images": default["inputs"]["inputs"]}}},
        "seconds": {stage: round(value, 3) for stage, value in stages.seconds.items()},
        "peak_memory_mb": stages.peak_memory_mb,
    }
