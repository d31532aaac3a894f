"""The feature extractor that fine-tuning starts from: found, unpacked, and checked to be one of ours.

What it needs is in its manifest: the preprocessing, the variant, where the weights came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.errors import ConversionError, PackagingError, ParameterError
from utils.extraction import extract_tarball
from utils.hashes import hash_files
from utils.manifest import UNLISTED, check_manifest
from utils.variants import Preprocessing, Variant, get_variant


@dataclass(frozen=True)
class Extractor:
    """A feature extractor on disk.

    folder: of the SavedModel. preprocessing: what the model expects, at the size that is trained on, in pixels.
    files: SHA-256 by path, without the manifest and the model card.
    """

    folder: Path
    manifest: Mapping[str, Any]
    variant: Variant
    preprocessing: Preprocessing
    files: Mapping[str, str]

    @property
    def weights(self) -> str:
        """Where the backbone's weights came from: "official", "synthetic" or "custom"."""
        return self.manifest["weights"]


def open_extractor(model: str, image_size: int, scratch: Path) -> Extractor:
    """The extractor behind the notebook's `model`: a SavedModel folder, a tarball, or a TF Hub handle.

    A tarball is unpacked into `scratch`; a handle (anything with "://") is resolved by TF Hub, in its own cache.
    Raises ParameterError when there is no such model, it has no manifest of this project, it is a classifier, or it
    does not take images of `image_size` (0 for its own size); PackagingError for a damaged tarball, or for files
    other than the manifest lists.
    """
    folder = _located(model, scratch)
    manifest = _manifest(model, folder)
    if manifest["head"] != "fe":
        raise ParameterError(
            f"model = {model} is a classifier ({manifest['name']}), and fine-tuning puts a head of its own on a "
            f'feature extractor. Convert the same checkpoint with head = "fe", and pass {manifest["variant"]}_fe.'
        )
    variant = get_variant(manifest["variant"])
    preprocessing = _preprocessing(manifest, variant, image_size)
    return Extractor(folder, manifest, variant, preprocessing, _verified_files(model, folder, manifest))


def _located(model: str, scratch: Path) -> Path:
    if "://" in model:
        from utils.hub_compat import import_hub

        try:
            return Path(import_hub().resolve(model))
        except Exception as error:  # TF Hub raises whatever its resolvers and the network do
            raise ParameterError(f"model = {model} could not be fetched by TensorFlow Hub: {error}") from error
    path = Path(model).expanduser()
    if path.is_file():
        return extract_tarball(path, scratch / path.name.removesuffix(".gz").removesuffix(".tar"))
    if (path / "saved_model.pb").is_file():
        return path.absolute()
    found = (
        f"a folder without saved_model.pb (it holds {', '.join(_some(path)) or 'nothing'})"
        if path.is_dir()
        else ("no such file or folder")
    )
    raise ParameterError(
        f"model = {model}: {found}. Expected a SavedModel folder, its tarball, or a TF Hub handle. "
        "`make convert HEAD=fe` makes a feature extractor in exports/."
    )


def _some(folder: Path) -> list[str]:
    names = sorted(path.name for path in folder.iterdir())
    return [*names[:5], "…"] if len(names) > 5 else names


def _manifest(model: str, folder: Path) -> dict[str, Any]:
    path = folder / "assets.extra" / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise TypeError("it is not an object")
        check_manifest(manifest)
        _own_preprocessing(manifest)
        manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1]
    except FileNotFoundError as error:
        raise ParameterError(
            f"model = {model} has no assets.extra/manifest.json, from which its preprocessing is read. "
            "Pass a SavedModel that the conversion notebooks made."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        kept = str(error) if isinstance(error, ConversionError) else f"{type(error).__name__}: {error}"
        raise ParameterError(
            f"model = {model}: its assets.extra/manifest.json is damaged ({kept}). Convert the model again."
        ) from error
    return manifest


def _own_preprocessing(manifest: Mapping[str, Any]) -> Preprocessing:
    """The manifest's preprocessing, of the right types; ValueError, KeyError or TypeError where it is not."""
    found = manifest["model"]["preprocessing"]
    mean, std = (tuple(float(value) for value in found[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise ValueError("preprocessing: mean and std need three numbers each, those of std above 0")
    own = Preprocessing(int(found["resize"]), int(found["crop"]), mean, std, str(found["interpolation"]))
    if not 0 < own.crop <= own.resize:
        raise ValueError(f"preprocessing: crop {own.crop} is not from 1 to resize {own.resize}")
    return own


def _preprocessing(manifest: Mapping[str, Any], variant: Variant, image_size: int) -> Preprocessing:
    own = _own_preprocessing(manifest)
    fixed = manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1]
    if image_size in (0, own.crop):
        return own
    if fixed is not None:
        raise ParameterError(
            f"image_size is {image_size}; {manifest['name']} takes images of {fixed} pixels only. Use 0 or {fixed}"
            + (", or convert a ConvMixer with image_size = 0." if variant.family == "convmixer" else ".")
        )
    if image_size % variant.architecture.patch_size:
        patch = variant.architecture.patch_size
        raise ParameterError(
            f"image_size is {image_size}, not a multiple of {variant.name}'s patch of {patch} pixels. "
            f"Use {max(patch, image_size - image_size % patch)} or {image_size - image_size % patch + patch}."
        )
    return replace(own, crop=image_size, resize=round(image_size * own.resize / own.crop))


def _verified_files(model: str, folder: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    found = {path: value for path, value in hash_files(folder).items() if path not in UNLISTED}
    listed = manifest["files"]
    if wrong := sorted(path for path in {*found, *listed} if found.get(path) != listed.get(path)):
        raise PackagingError(
            f"model = {model}: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what the manifest lists: "
            "damaged, changed or missing. Unpack or convert it again."
        )
    return found
