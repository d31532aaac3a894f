"""What lies in an output folder: artefacts, read and checked by what their manifests say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.artefact.contents import differences, manifest_of, read_manifest, summary
from utils.artefact.lite_file import hash_lite
from utils.artefact.manifest import UNLISTED, is_packed, packed_manifest
from utils.artefact.placing import final_names
from utils.errors import PackagingError
from utils.files import hash_file, hash_files


def check_artefact(output_dir: Path, name: str, unpacked: bool = True) -> dict[str, Any]:
    """The manifest of `name`, if folder and tarball are there and their hashes are those that it lists.

    unpacked: False where the tarball alone is wanted, as on a release page.
    PackagingError, which names the file, for what is missing, cannot be read, or is not what the manifest says.
    """
    folder, tarball, path = (output_dir / part for part in final_names(name))
    manifest = _published_manifest(path)
    if manifest["name"] != name:
        raise PackagingError(f"{path} is the manifest of {manifest['name']!r}. Convert {name} again.")
    try:
        if hash_file(tarball) != manifest["tarball"]["sha256"]:
            raise PackagingError(f"{tarball} is not the one that its manifest describes. Convert it again.")
        if not unpacked:
            return manifest
        faults = differences(hash_files(folder), manifest)
    except OSError as error:
        raise PackagingError(f"{tarball} cannot be read: {error}. Convert it again.") from error
    # The manifest inside and the card are in no list of hashes. Without the former nobody could open the folder.
    if not faults and not ((folder / UNLISTED[1]).is_file() and manifest_of(folder)["files"] == manifest["files"]):
        faults = [f"{' or '.join(UNLISTED)} is missing, or another artefact's"]
    if faults:
        raise PackagingError(f"{folder} differs from its manifest: {summary(faults)}. Convert it again.")
    return manifest


def check_lite(path: Path) -> dict[str, Any]:
    """The manifest beside a .tflite file, if what is in that has the hashes that it lists, and it is the one inside.

    PackagingError, which names the file, for anything else.
    """
    manifest = read_manifest(path.with_name(f"{path.name}.json"))
    hashes, inside = hash_lite(path)
    faults = differences(hashes, manifest)
    if not faults and (manifest["name"] != path.stem or json.loads(inside) != packed_manifest(manifest)):
        faults = ["the manifest inside is another one"]
    if faults:
        raise PackagingError(f"{path} differs from its manifest: {summary(faults)}. Make it again.")
    return manifest


def _published_manifest(path: Path) -> dict[str, Any]:
    """The manifest beside a tarball, which names that one's hash. PackagingError for anything else."""
    try:
        manifest = read_manifest(path)
        if not isinstance(manifest["tarball"]["sha256"], str):
            raise TypeError("it does not name the tarball's hash")
        if is_packed(manifest):
            raise ValueError("it has no figures: it is one from inside an artefact")
    except (ValueError, KeyError, TypeError) as error:
        raise PackagingError(f"{path} is no published manifest ({error}). Convert it again.") from error
    return manifest
