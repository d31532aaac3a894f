"""What lies in an output folder: artefacts, read and checked by what their manifests say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.errors import PackagingError
from utils.hashes import hash_file, hash_files
from utils.manifest import UNLISTED, check_manifest, is_packed
from utils.staging import final_names

_MAX_BYTES = 16 << 20  # a manifest has about 150 KB


def check_artefact(output_dir: Path, name: str, unpacked: bool = True) -> dict[str, Any]:
    """The manifest of `name`, if folder and tarball are there and their hashes are those that it lists.

    unpacked: False where the tarball alone is wanted, as on a release page.
    PackagingError, which names the file, for what is missing, cannot be read, or is not what the manifest says.
    """
    folder, tarball, path = (output_dir / part for part in final_names(name))
    manifest = read_manifest(path)
    if manifest["name"] != name:
        raise PackagingError(f"{path} is the manifest of {manifest['name']!r}. Convert {name} again.")
    try:
        if hash_file(tarball) != manifest["tarball"]["sha256"]:
            raise PackagingError(f"{tarball} is not the one that its manifest describes. Convert it again.")
        if not unpacked:
            return manifest
        found = {key: value for key, value in hash_files(folder).items() if key not in UNLISTED}
    except OSError as error:
        raise PackagingError(f"{tarball} cannot be read: {error}. Convert it again.") from error
    wrong = sorted(key for key in {*found, *manifest["files"]} if found.get(key) != manifest["files"].get(key))
    if wrong:
        raise PackagingError(f"{folder} differs from its manifest in {', '.join(wrong)}. Convert it again.")
    return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """A published manifest, which names its tarball's hash. PackagingError for anything else."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise PackagingError(f"{path} is larger than any manifest. Convert it again.")
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or not isinstance(manifest["tarball"]["sha256"], str):
            raise TypeError("it does not name the tarball's hash")
        if is_packed(manifest):
            raise ValueError("it has no figures: it is one from inside an artefact")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PackagingError(f"{path} is no published manifest ({error}). Convert it again.") from error
    try:
        check_manifest(manifest)
    except PackagingError as error:
        raise PackagingError(f"{path}: {error} Convert it again.") from error
    return manifest
