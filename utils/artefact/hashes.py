"""SHA-256 of files and folders."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from utils.errors import PackagingError


def hash_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: str | os.PathLike) -> dict[str, str]:
    """SHA-256 of every file below `folder`, by its relative path with forward slashes, sorted.

    PackagingError for anything but files and folders (links, pipes).
    """
    folder = Path(folder)
    return {name: hash_file(folder / name) for name in paths_below(folder) if (folder / name).is_file()}


def paths_below(folder: Path) -> list[str]:
    """Relative paths below `folder`, each folder before what is in it: unpackers need not create parents.

    PackagingError as `hash_files`.
    """
    if not folder.is_dir():
        raise PackagingError(f"{folder} is not a folder. Expected the folder of a SavedModel.")
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise PackagingError(f"{path} is neither a plain file nor a folder. Replace it by one.")
        found.append(path.relative_to(folder))
    return [path.as_posix() for path in sorted(found, key=lambda path: path.parts)]
