"""What can be verified of a download without running it: sums, names, the manifest inside, and hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.artefact.contents import differences, read_manifest, read_text
from utils.artefact.lite_file import unpack_lite
from utils.artefact.manifest import packed_manifest
from utils.artefact.tarball import extract_tarball
from utils.errors import PackagingError
from utils.files import hash_file, hash_files

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. passed: None where there was nothing to look at."""

    name: str
    passed: bool | None
    text: str


def check_sum(path: Path) -> Check:
    """A file's SHA-256 against `SHA256SUMS` in the same folder, if that is there and lists it."""
    sums = path.parent / SUMS
    text = read_text(sums) if sums.is_file() else ""
    lines = [_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    if not all(lines):
        return Check("sum", False, f"{SUMS} is damaged: expected lines of a SHA-256, two blanks and a name")
    listed = {line[1] for line in lines if line[2].removeprefix("./") == path.name}
    if len(listed) > 1:
        return Check("sum", False, f"{SUMS} lists it with {len(listed)} different sums")
    return check_hash("sum", path, next(iter(listed), None), SUMS)


def check_hash(name: str, path: Path, expected: str | None, listed_in: str) -> Check:
    """Compares a file's SHA-256.

    Args:
        name: Of the check.
        path: The file's.
        expected: The SHA-256; None if none is known.
        listed_in: The file that says so.
    """
    if expected is None:
        return Check(name, None, f"there is no {listed_in} beside it that lists it")
    found = hash_file(path)
    if found != expected:
        return Check(name, False, f"its SHA-256 is {found}, and {listed_in} says {expected}")
    return Check(name, True, f"its SHA-256 is the one in {listed_in}")


def unpack(path: Path, folder: Path) -> Path:
    """The files of a tarball or .tflite, in the new `folder`; of a SavedModel's folder, that folder itself.

    PackagingError for what is none of these, and for anything in it that a stranger should not be trusted with.
    """
    if path.is_dir():
        return path
    if not path.is_file():
        raise PackagingError(f"{path} is neither a file nor a folder.")
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


def check_name(path: Path, manifest: Mapping[str, Any]) -> Check:
    """A file's name against the manifest's: one artefact in the place of another is whole in itself."""
    name = (
        manifest["name"]
        if path.is_dir()
        else re.sub(r"(\.tar\.gz|\.tgz|\.tflite|\.keras|\.onnx)$", "", path.resolve().name)
    )
    wrong = f"inside is {manifest['name']}: another artefact in this one's place, or a renamed file"
    right = name == manifest["name"]
    return Check("name", right, f"{manifest['name']}, {manifest['weights']} weights" if right else wrong)


def check_beside(path: Path, manifest: Mapping[str, Any]) -> Check:
    """The manifest inside against the published one beside the file, if that is there."""
    ending = ".tflite.json" if manifest.get("format") == "tflite" else ".json"
    beside = path.resolve().parent / f"{manifest['name']}{ending}"
    if not beside.is_file():
        return Check("manifest", None, f"there is no {beside.name} beside it")
    try:
        whole = read_manifest(beside)
        published = packed_manifest(whole)  # the one inside has no figures
    except PackagingError as error:
        return Check("manifest", False, f"{beside.name}: {error}")
    if path.is_file() and "tarball" in whole:
        same = check_hash("manifest", path, whole["tarball"]["sha256"], beside.name)
        if not same.passed:
            return same
    different = [key for key in {**published, **manifest} if published.get(key) != manifest.get(key)]
    if different:
        return Check("manifest", False, f"{beside.name} differs from the one inside, in {', '.join(different[:10])}")
    return Check("manifest", True, f"{beside.name} is the one inside")


def check_files(folder: Path, manifest: Mapping[str, Any]) -> Check:
    """Every unpacked file against the manifest's SHA-256: none changed, none missing, none more."""
    faults = differences(hash_files(folder), manifest)
    right = f"{len(manifest['files'])} files, each with the SHA-256 that the manifest says"
    return Check("files", not faults, faults or right)
