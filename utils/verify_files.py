"""What can be verified of a download without running it: sums, hashes, and the manifest inside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import PackagingError
from utils.extraction import extract_tarball
from utils.hashes import hash_file, hash_files
from utils.lite_file import unpack_lite
from utils.manifest import UNLISTED, check_manifest, is_packed, packed_manifest

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_MAX_TEXT = 16 << 20  # bytes of a manifest or of SHA256SUMS


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. passed: None where there was nothing to look at."""

    name: str
    passed: bool | None
    text: str


def check_sum(path: Path) -> Check:
    """A file's SHA-256 against `SHA256SUMS` in the same folder, if that is there and lists it."""
    sums = path.parent / SUMS
    if not sums.is_file():
        return Check("sum", None, f"there is no {SUMS} beside it")
    lines = [_LINE.fullmatch(line.strip()) for line in _text(sums).splitlines() if line.strip()]
    if not all(lines):
        raise PackagingError(f"{sums} is damaged: expected lines of a SHA-256, two blanks and a name. Get it again.")
    listed = {line[2].removeprefix("./"): line[1] for line in lines}
    if path.name not in listed:
        return Check("sum", None, f"{SUMS} does not list {path.name}")
    found = hash_file(path)
    if found != listed[path.name]:
        return Check("sum", False, f"its SHA-256 is {found}, and {SUMS} says {listed[path.name]}")
    return Check("sum", True, f"its SHA-256 is the one in {SUMS}")


def unpack(path: Path, folder: Path) -> Path:
    """The files of a tarball or .tflite, in the new `folder`; of a SavedModel's folder, that folder itself.

    PackagingError for what is none of these, and for anything in it that a stranger should not be trusted with.
    """
    if path.is_dir():
        return path
    if not path.is_file():
        raise PackagingError(f"{path}: there is no such file. Give a .tar.gz, a .tflite or a SavedModel's folder.")
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(b"\x1f\x8b"):
        return extract_tarball(path, folder)
    if start[4:] == b"TFL3":
        return unpack_lite(path, folder)
    raise PackagingError(
        f"{path} is neither a .tar.gz nor a .tflite file: it starts with {start!r}. Fetch it again, and look at what "
        "arrived: servers send error pages too."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an unpacked artefact, checked field by field. PackagingError where it is missing or wrong."""
    path = next((folder / name for name in (UNLISTED[0], "manifest.json") if (folder / name).is_file()), None)
    if path is None:
        raise PackagingError(f"there is no {UNLISTED[0]} in it: it is not an artefact of this project, or was cut.")
    manifest = _json(path)
    check_manifest(manifest)
    return manifest


def check_name(path: Path, manifest: Mapping[str, Any]) -> Check:
    """The file's name against the manifest's: one artefact in the place of another is whole in itself.

    A folder may have any name.
    """
    name = manifest["name"] if path.is_dir() else re.sub(r"(\.tar\.gz|\.tgz|\.tflite)$", "", path.resolve().name)
    if name != manifest["name"]:
        return Check(
            "name", False, f"inside is {manifest['name']}: another artefact in this one's place, or a renamed file"
        )
    return Check("name", True, f"{manifest['name']}, {manifest['weights']} weights")


def check_beside(path: Path, manifest: Mapping[str, Any]) -> Check:
    """The manifest inside against the published one beside the file, if that is there."""
    ending = ".tflite.json" if manifest.get("format") == "tflite" else ".json"
    beside = path.resolve().parent / f"{manifest['name']}{ending}"
    if not beside.is_file():
        return Check("manifest", None, f"there is no {beside.name} beside it")
    published = _json(beside)
    if is_packed(manifest):  # the one inside has no figures
        try:
            check_manifest(published)
        except PackagingError as error:
            return Check("manifest", False, f"{beside.name}: {error}")
        published = packed_manifest(published)
    different = [key for key in {**published, **manifest} if published.get(key) != manifest.get(key)]
    if different:
        return Check("manifest", False, f"{beside.name} differs from the one inside, in {', '.join(different[:10])}")
    return Check("manifest", True, f"{beside.name} is the one inside")


def check_files(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """Every unpacked file against the manifest's SHA-256: none changed, none missing, none more."""
    found, listed = hash_files(folder), manifest["files"]
    found = {path: value for path, value in found.items() if path not in (*UNLISTED, "manifest.json")}
    faults = [
        f"{path} is {'not the file that was published' if path in found else 'missing'}"
        for path in listed
        if found.get(path) != listed[path]
    ]
    faults += [f"{path} is not in the manifest" for path in found if path not in listed]
    if faults:
        more = f"; and {len(faults) - 10} more" if len(faults) > 10 else ""
        return Check("files", False, "; ".join(faults[:10]) + more)
    return Check("files", True, f"{len(listed)} files, each with the SHA-256 that the manifest says")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise PackagingError(f"{path.name} is not JSON: {error}. Get it again.") from error
    if not isinstance(found, dict):
        raise PackagingError(f"{path.name} holds no manifest. Get it again.")
    return found


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_TEXT:
        raise PackagingError(f"{path.name} has {path.stat().st_size:,} bytes, too many to be what its name says.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PackagingError(f"{path.name} is not text: {error}. Get it again.") from error
