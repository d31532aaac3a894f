"""Files: written whole or not at all, listed, and told apart by their SHA-256."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from utils.errors import PackagingError, ParameterError


@contextmanager
def written_whole(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """A new file beside `path`, hidden, which takes its place when the block ends well, and vanishes when it does not.

    mode: its permissions, less the umask. OSErrors pass through: what is to be done about them, the caller knows.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        # Not tempfile's: its permissions are for secrets, and a later chmod would not know the umask.
        with open(beside, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # the name must not appear before the bytes, should the power fail
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def user_path(text: str | os.PathLike) -> Path:
    """A path as a user writes it, `~` for a home folder; ParameterError for what this system takes for none."""
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # a path, all the same
    except (RuntimeError, OSError, ValueError) as error:  # no such home, too long, no text
        raise ParameterError(f"{os.fspath(text)!r} is no path on this machine ({error}). Give another one") from error
    return path


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


def hash_file(path: str | os.PathLike) -> str:
    """SHA-256 of a file, read in pieces, in hexadecimal."""
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
