"""Manifests and published artefacts of no real model: for what needs no framework."""

import hashlib
import json
from pathlib import Path

from utils.artefact.lite_file import pack_lite
from utils.artefact.manifest import build_manifest, packed_manifest
from utils.artefact.staging import Staging
from utils.families.variants import VARIANTS, own_variant
from utils.files import hash_file

NAME = "convmixer_tiny_classification"
VARIANT = VARIANTS["convmixer_tiny"]
ROW = {
    "output": "logits",
    "input": "noise",
    "batch": 8,
    "max_abs": 3.2e-6,
    "relative": 1.1e-6,
    "rmse": 4e-7,
    "top1": 1.0,
    "top5": 0.975,
    "tolerance": 1e-5,
    "passed": True,
}
GRADIENTS = [
    ROW | {"output": "gradients", "batch": 3, "top1": None, "top5": None, "tolerance": 1e-4, "relative_l2": value}
    for value in (2e-7, 5.5e-6, 1e-7)
]
TRAINING = {
    "history": {"val_accuracy": [0.5, 0.93214, 0.9], "loss": [2.0, 0.3, 0.1]},
    "best_epoch": 2,
    "dataset": "digits",
}
# Who says how one's own checkpoint was trained.
TOLD = {
    **{"activation": "given", "epsilon": "assumed", "image_size": "file", "crop_pct": "assumed"},
    **{"interpolation": "assumed", "mean": "file", "std": "given"},
}
TENSORS = {
    "inputs": {"inputs": {"dtype": "float32", "shape": [None, 48, 48, 3]}},
    "outputs": {"logits": {"dtype": "float32", "shape": [None, 10]}},
}


def own(**origins: str):
    """The row of a checkpoint of one's own, of which `TOLD` and `origins` say who knows what."""
    facts = {"architecture": VARIANT.architecture, "preprocessing": VARIANT.preprocessing}
    return own_variant("convmixer", **facts, origins=TOLD | origins)


def manifest(files: dict[str, str] | None = None, **changes) -> dict:
    fields = {
        "name": NAME,
        "variant": VARIANT,
        "head": "classification",
        "weights": "custom",
        "source": {"url": None, "path": "/somewhere/private/tiny.pth.tar", "sha256": "ab" * 32},
        "versions": {"tensorflow": "2.21.0", "onnx-tf": "1.10.0"},
        "parameters": 8010,
        "signatures": {"serving_default": TENSORS},
        "parity": {"passed": True, "tolerance": {"logits": 1e-5}, "rows": [ROW, *GRADIENTS]},
        "seconds": {"load": 0.1234567, "export": 2.0, "save": 0.5, "package": 0.3, "verify": 4.0},
        "peak_memory_mb": 812.5,
        "files": files or {"saved_model.pb": "cd" * 32},
    }
    return build_manifest(**(fields | changes))


def save(folder: Path, graph: bytes = b"graph") -> None:
    """Stands for tf.saved_model.save: writes into a folder that does not exist yet."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(graph)
    (folder / "variables" / "variables.index").write_bytes(b"index" * 100)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "labels.tsv").write_text("0\ttench\n")


def publish(
    output_dir: Path, graph: bytes = b"graph", name: str = NAME, keras: bytes = b"", overwrite=False, **changes
):
    with Staging(output_dir, name, overwrite=overwrite) as stage:
        save(stage.model_dir, graph)
        stage.unpacked_candidate()
        beside = {}
        if keras:
            stage.beside["keras"].write_bytes(keras)
            beside = {"keras": {"sha256": hash_file(stage.beside["keras"])}}
        return stage.publish(manifest(stage.files, name=name, **changes) | beside)


def lite(folder: Path, name: str, **changes) -> Path:
    """A .tflite file of the artefact `name` that is there, and its manifest beside it."""
    manifest = json.loads((folder / f"{name}.json").read_text())
    path = folder / f"{name}_int8.tflite"
    (folder / "model").write_bytes(b"lite" * 1000)
    derived = {"name": name, "files": manifest["files"] | changes.pop("derived_files", {})}
    files = {"model.tflite": hash_file(folder / "model"), "golden.npz": hashlib.sha256(b"golden").hexdigest()}
    manifest |= {"name": path.stem, "storage": "int8", "format": "tflite", "files": files, "derived_from": derived}
    manifest |= changes
    inside = {"manifest.json": json.dumps(packed_manifest(manifest)).encode(), "golden.npz": b"golden"}
    pack_lite(folder / "model", inside, path)
    path.with_name(f"{path.name}.json").write_text(json.dumps(manifest))
    return path
