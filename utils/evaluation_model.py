"""What is evaluated: a SavedModel with its manifest and class names, and the source model that it was made from."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.checkpoints import Checkpoint, read_convmixer, read_mixer, resolve
from utils.errors import EvaluationError, PackagingError
from utils.extraction import extract_tarball
from utils.hashes import hash_files
from utils.labels import Label, read_labels
from utils.manifest import check_manifest, installed_versions
from utils.quiet import quiet_imports
from utils.variants import Preprocessing, Variant, get_variant

FRAMEWORKS = {"convmixer": "PyTorch", "mixer": "Flax"}  # of the source models, by family
_PACKAGES = {"convmixer": ("torch",), "mixer": ("jax", "flax")}
Predict = Callable[[np.ndarray], np.ndarray]  # float32 [B, H, W, 3], normalised -> float32 logits [B, classes]


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier. `labels` is None where it names no classes; `sha256` is of all its files."""

    manifest: Mapping[str, Any]
    variant: Variant
    preprocessing: Preprocessing
    labels: list[Label] | None
    classes: int
    sha256: str
    predict: Predict
    predict_image: Predict | None  # uint8 [1, H, W, 3] of any size -> logits: the signature serving_image, if it has it


@contextmanager
def model_folder(path: str) -> Iterator[Path]:
    """The SavedModel's folder; a tarball is unpacked for the time of the block. PackagingError for what is neither."""
    found = Path(path).expanduser()
    if found.is_dir():
        yield found
    elif found.is_file():
        with tempfile.TemporaryDirectory(prefix="evaluation-") as folder:
            yield extract_tarball(found, Path(folder) / "model")
    else:
        raise PackagingError(f"--model {path}: there is no such folder or tarball. `make convert` makes both.")


def load_classifier(folder: Path) -> Classifier:
    """Loads a classifier that this project made. PackagingError for anything else, saying what is missing."""
    manifest = _manifest(folder / "assets.extra" / "manifest.json")
    if manifest["head"] != "classification":
        raise PackagingError(f"{manifest['name']} is a feature extractor: it gives no classes to evaluate.")
    with quiet_imports():
        from utils import saved_model
    model = saved_model.load_model(folder)
    try:
        classes = int(model.signatures["serving_default"].structured_outputs["logits"].shape[-1])
    except (AttributeError, KeyError, TypeError) as error:
        raise PackagingError(f"{folder} has no signature serving_default that gives logits [B, classes].") from error
    names = folder / "assets.extra" / "labels.tsv"
    digest = hashlib.sha256(json.dumps(hash_files(folder)).encode())
    return Classifier(
        manifest=manifest,
        variant=get_variant(manifest["variant"]),
        preprocessing=_preprocessing(manifest),
        labels=read_labels(names, classes) if names.exists() else None,
        classes=classes,
        sha256=digest.hexdigest(),
        predict=saved_model.as_function(model),
        predict_image=_predict_image(model),
    )


def _predict_image(model: Any) -> Predict | None:
    import tensorflow as tf

    if "serving_image" not in model.signatures:
        return None
    signature = model.signatures["serving_image"]
    return lambda image: signature(images=tf.constant(image))["logits"].numpy()


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackagingError(
            f"{path} cannot be read ({error}). It says which model this is and how its images are prepared; "
            "expected a SavedModel that `make convert` made, as folder or tarball."
        ) from error
    if not isinstance(manifest, dict):
        raise PackagingError(f"{path} holds no manifest.")
    check_manifest(manifest)
    return manifest


def _preprocessing(manifest: Mapping[str, Any]) -> Preprocessing:
    try:
        found = manifest["model"]["preprocessing"]
        mean, std = (tuple(float(value) for value in found[key]) for key in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std must have three channels")
        return Preprocessing(int(found["resize"]), int(found["crop"]), mean, std, str(found["interpolation"]))
    except (KeyError, TypeError, ValueError) as error:
        raise PackagingError(f"The manifest of {manifest['name']} has no sound preprocessing: {error}.") from error


def versions_of(variant: Variant) -> dict[str, str]:
    """Of everything that figures may depend on."""
    return installed_versions(("tensorflow", "pillow", "numpy", *_PACKAGES[variant.family]))


def find_checkpoint(model: Classifier, checkpoint: str) -> Checkpoint:
    """The file of the source model: a path, "official", or "synthetic" with the seed that the manifest records."""
    if "training" in model.manifest:
        raise EvaluationError(
            f"{model.manifest['name']} was fine-tuned here, so no source framework has its weights. "
            "Leave --checkpoint out."
        )
    seed = model.manifest.get("settings", {}).get("seed", 0)
    return resolve(model.variant, checkpoint, seed)


def load_source(variant: Variant, checkpoint: Checkpoint) -> Predict:
    """The model of the source framework; raises CheckpointError as reading does."""
    if variant.family == "convmixer":
        with quiet_imports():
            from utils import convmixer
        weights = read_convmixer(checkpoint.path, variant)
        return convmixer.as_nhwc(convmixer.build_convmixer(variant.architecture, weights))
    with quiet_imports():
        from utils import mlp_mixer
    model = mlp_mixer.build(variant.architecture)
    parameters = mlp_mixer.select_parameters(model, read_mixer(checkpoint.path, variant))
    return mlp_mixer.as_function(model, parameters)
