"""What a published artefact consists of: its manifest, read and checked, and every other file compared with it.

Whoever opens, verifies, evaluates, lists or releases artefacts reads them here. Needs the standard library alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from utils.artefact.lite_file import MANIFEST as LITE_MANIFEST, MODEL as LITE_MODEL, unpack_lite
from utils.artefact.manifest import UNLISTED, check_manifest, is_packed, packed_manifest, upgraded
from utils.artefact.typed import check, misfit
from utils.errors import ConversionError, PackagingError
from utils.families import FAMILIES
from utils.families.base import ACTIVATIONS, Patches
from utils.families.variants import BESIDE, Preprocessing
from utils.files import hash_file, hash_files

_MAX_TEXT = 16 << 20  # bytes of a manifest or of SHA256SUMS; a manifest has about 150 KB

_MAX_SIZE = 100_000  # of an architecture; ImageNet-21k's classes are 21,843


def final_names(name: str) -> tuple[str, str, str]:
    """SavedModel folder, tarball and manifest. The manifest comes last: where it is, the others are."""
    return name, f"{name}.tar.gz", f"{name}.json"


def placed_names(name: str) -> tuple[str, ...]:
    """All that a conversion puts in place, or takes away: the files of further formats too, if they were asked for."""
    folder, tarball, manifest = final_names(name)
    return folder, tarball, *(f"{name}.{format}" for format in BESIDE), manifest


def read_text(path: Path) -> str:
    """A text file that a stranger may have made. PackagingError for what cannot be read, is no text, or is huge."""
    try:
        if path.stat().st_size > _MAX_TEXT:
            raise PackagingError(f"{path.name} has {path.stat().st_size:,} bytes, too many to be what its name says.")
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        reason = "cannot be read" if isinstance(error, OSError) else "is not text"
        raise PackagingError(f"{path.name} {reason}: {error}. Fetch or convert it again.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; PackagingError for anything else, and for a key that occurs twice."""
    text = read_text(path)
    try:
        found = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise PackagingError(f"{path.name} is not JSON: {error}. Fetch or convert it again.") from error
    if not isinstance(found, dict):
        raise PackagingError(f"{path.name} holds no manifest. Fetch or convert it again.")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest's file, checked field by field, in today's form. PackagingError where it is missing or wrong."""
    manifest = read_json(path)
    check_manifest(manifest, path.name)
    preprocessing_of(manifest)
    return upgraded(manifest)


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of an unpacked artefact, a SavedModel or a TFLite model; raises as `read_manifest`."""
    path = folder / (LITE_MANIFEST if (folder / LITE_MODEL).is_file() else UNLISTED[0])
    if not path.is_file():
        raise PackagingError(f"{UNLISTED[0]} is missing: it is not an artefact of this project, or was cut.")
    return read_manifest(path)


def preprocessing_of(manifest: Mapping[str, Any]) -> Preprocessing:
    """How images are prepared for the model; PackagingError for numbers that no image can be made with.

    manifest: checked; a record will do.
    """
    found = manifest["model"]["preprocessing"]
    mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
    preprocessing = Preprocessing(found["resize"], found["crop"], mean, std, found["interpolation"])
    try:
        preprocessing.check()
    except ConversionError as error:
        raise PackagingError(f"manifest: no sound preprocessing. {error} Fetch or convert the model again.") from error
    return preprocessing


def architecture_of(manifest: Mapping[str, Any]) -> Patches:
    """The model's sizes; PackagingError for those that no model of its family can have.

    manifest: checked; a record will do.
    """
    kind, found = FAMILIES[manifest["model"]["family"]].architecture, manifest["model"]["architecture"]
    check(found, kind, "manifest", "model.architecture")
    known = {each.name for each in fields(kind)}  # a file tells more of it, such as who says so
    architecture = kind(**{key: value for key, value in found.items() if key in known})
    for key, value in asdict(architecture).items():
        words = f"one of {', '.join(ACTIVATIONS)}" if key == "activation" else f"above 0, at most {_MAX_SIZE:,}"
        if not (value in ACTIVATIONS if key == "activation" else 0 < value <= _MAX_SIZE):
            raise misfit("manifest", f"model.architecture.{key}", value, words)
    return architecture


def differences(hashes: Mapping[str, str], manifest: Mapping[str, Any]) -> str:
    """The first ten of its files that are changed, missing, or more than the manifest lists, in words; "" for none.

    hashes: of all files that there are.
    """
    unlisted, expected = (LITE_MANIFEST,) if manifest.get("format") == "tflite" else UNLISTED, manifest["files"]
    faults = [
        f"{path} is {'not the file that was published' if path in hashes else 'missing'}"
        for path in expected
        if hashes.get(path) != expected[path]
    ]
    faults += [f"{path} is not in the manifest" for path in hashes if path not in (*expected, *unlisted)]
    more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
    return "; ".join(faults[:10]) + more


def check_artefact(output_dir: Path, name: str, unpacked: bool = True) -> dict[str, Any]:
    """The manifest of `name`, if folder, tarball and the further files that it tells of have the hashes it lists.

    unpacked: False where there is no folder, as on a release page.
    PackagingError, which names the file, for what is missing, cannot be read, or is not what the manifest says.
    """
    folder, tarball, path = (output_dir / part for part in final_names(name))
    try:
        manifest = read_manifest(path)
        if is_packed(manifest) or "tarball" not in manifest:
            raise PackagingError("it is one from inside an artefact")
    except PackagingError as error:
        raise PackagingError(f"{path} is no published manifest ({error}). Convert it again.") from error
    if manifest["name"] != name:
        raise PackagingError(f"{path} is the manifest of {manifest['name']!r}. Convert {name} again.")
    hashes = {tarball: manifest["tarball"]["sha256"]}
    hashes |= {output_dir / f"{name}.{key}": manifest[key]["sha256"] for key in BESIDE if key in manifest}
    try:
        for file, sha256 in hashes.items():
            if hash_file(file) != sha256:
                raise PackagingError(f"{file} is not the one that its manifest describes. Convert it again.")
        if not unpacked:
            return manifest
        faults = differences(hash_files(folder), manifest)
    except OSError as error:
        raise PackagingError(f"{error.filename or tarball} cannot be read: {error}. Convert it again.") from error
    # The manifest inside and the card are in no list of hashes. Without the former nobody could open the folder.
    if not faults and not ((folder / UNLISTED[1]).is_file() and manifest_of(folder)["files"] == manifest["files"]):
        faults = f"{' or '.join(UNLISTED)} is missing, or another artefact's"
    if faults:
        raise PackagingError(f"{folder} differs from its manifest: {faults}. Convert it again.")
    return manifest


def published_hash(path: Path, name: str) -> str | None:
    """What the manifest of `name` beside a `.keras` or `.onnx` file says of its SHA-256; None where nothing does.

    PackagingError for what cannot be read, and where what it says is no SHA-256.
    """
    beside = path.resolve().parent / f"{name}.json"
    told = read_json(beside).get(path.suffix.removeprefix(".")) if beside.is_file() else None
    if told is not None and not (isinstance(told, dict) and isinstance(told.get("sha256"), str)):
        raise PackagingError(f"{beside.name} names no SHA-256 of {path.name}. Fetch both again.")
    return told and told["sha256"]


def check_lite(path: Path) -> dict[str, Any]:
    """The manifest beside a .tflite file, if what is in that has the hashes that it lists, and it is the one inside.

    PackagingError, which names the file, for anything else.
    """
    manifest = read_manifest(path.with_name(f"{path.name}.json"))
    with tempfile.TemporaryDirectory(prefix="lite-") as scratch:
        folder = unpack_lite(path, Path(scratch) / "unpacked")
        faults = differences(hash_files(folder), manifest)
        if not faults and (
            manifest["name"] != path.stem or read_json(folder / LITE_MANIFEST) != packed_manifest(manifest)
        ):
            faults = "the manifest inside is another one"
    if faults:
        raise PackagingError(f"{path} differs from its manifest: {faults}. Make it again.")
    return manifest
