"""What `staging` does on disk: a hidden, locked folder to grow in, and the renames into place, all of them or none.

Each process holds a lock on its folder's `lock` file. The system lets go of it however the process ends, so
what a killed one left can be told from what a live one is writing. Below the folder: `new/` with what shall
be placed, under its final names, and `old/` with what it replaces. `old/` exists only from the first rename
on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.artefact.contents import final_names
from utils.errors import PackagingError
from utils.files import write_text

# File systems without locks (network drives) leave only age to tell by; so does a kill before the lock was
# there.
_STALE_SECONDS = 24 * 3600
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(output_dir: Path, name: str, needed_bytes: int) -> tuple[Path, IO[bytes]]:
    """A new hidden folder for `name` in `output_dir`, which is made if need be, and its open lock.

    What dead processes left of the same name is removed, or put back if they died between two renames.
    PackagingError where `output_dir` is a file, cannot be written, or has less than `needed_bytes` left.
    """
    with explained(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(output_dir):
            _clear_stale(output_dir, name)
        free = shutil.disk_usage(output_dir).free
        if free < needed_bytes:
            raise PackagingError(
                f"output_dir = {output_dir} has {free / 1e6:,.0f} MB free, and {needed_bytes / 1e6:,.0f} MB "
                "are needed. Free some space or choose another folder."
            )
        folder = Path(tempfile.mkdtemp(dir=output_dir, prefix=f".{name}.partial-"))
        try:
            (folder / "new").mkdir()
            return folder, _locked_file(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def clear(output_dir: Path, name: str) -> None:
    """Removes what dead processes left of `name`, or puts back what they had moved away."""
    with explained(output_dir), _only_one(output_dir):
        _clear_stale(output_dir, name)


def place(folder: Path, output_dir: Path, names: Sequence[str]) -> None:
    """Moves `folder/new/<name>` to `output_dir/<name>` for each name; a move that fails undoes them all.

    Each rename is atomic, the three are not: a process killed between two of them leaves some of both, until
    the next `make_folder` or `place` for the same artefact puts the old ones back.
    """
    with explained(output_dir), _only_one(output_dir):
        _clear_stale(output_dir, _artefact(folder), but=folder)
        (folder / "old").mkdir()
        try:
            for name in names:
                if os.path.lexists(output_dir / name):
                    os.replace(output_dir / name, folder / "old" / name)
                os.replace(folder / "new" / name, output_dir / name)
        except BaseException:
            _put_back(folder, output_dir, names)
            raise


def replace_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all; PackagingError where that is not possible."""
    with explained(path.parent):
        write_text(path, text)


def _artefact(folder: Path) -> str:
    return folder.name.removeprefix(".").partition(".partial-")[0]


def _put_back(folder: Path, output_dir: Path, names: Sequence[str]) -> None:
    """Undoes an unfinished `place`, going by what lies where; may be interrupted and called again."""
    new, old = folder / "new", folder / "old"
    waiting = [name for name in names if os.path.lexists(new / name)]
    if not old.is_dir() or not waiting:  # never begun, or finished
        return
    for name in names:
        if name not in waiting:
            os.replace(output_dir / name, new / name)
        if os.path.lexists(old / name):
            os.replace(old / name, output_dir / name)
    old.rmdir()


def _clear_stale(output_dir: Path, name: str, but: Path | None = None) -> None:
    for folder in output_dir.glob(f".{name}.partial-*"):
        if folder != but and _is_stale(folder):
            _put_back(folder, output_dir, final_names(name))
            shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    try:
        with (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:  # its process lives
        return False
    except OSError:  # no lock to go by
        return folder.exists() and time.time() - folder.stat().st_mtime > _STALE_SECONDS


def _locked_file(folder: Path) -> IO[bytes]:
    """Locked before it gets its name: nobody can find it unlocked while this process lives."""
    lock = (folder / "lock.new").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.replace(folder / "lock.new", folder / "lock")
    except OSError:  # no locks here: without the file, age decides
        (folder / "lock.new").unlink()
    return lock


@contextmanager
def _only_one(output_dir: Path) -> Iterator[None]:
    """Keeps other processes from tidying or placing in the same folder; the lock is on the folder itself."""
    descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        with suppress(OSError):  # where there are no locks, two at once are the user's to avoid
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def explained(output_dir: Path) -> Iterator[None]:
    """Turns the system's refusals to write into PackagingErrors that say what to do."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full(output_dir, error) from error
        reason = "cannot be written"
        if isinstance(error, FileExistsError | NotADirectoryError):
            reason = "is a file, or inside one"
        raise PackagingError(
            f"output_dir = {output_dir} {reason} ({error}). Choose a folder that you may write to."
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether no space was left. TensorFlow has several errors for it, with the system's words in them."""
    return getattr(error, "errno", None) in _NO_SPACE or "No space left on device" in str(error)


def full(output_dir: Path, error: BaseException) -> PackagingError:
    """The error for a disk that is full, with what is left in `output_dir`."""
    free = shutil.disk_usage(output_dir).free / 1e6
    return PackagingError(
        f"no space was left to write to ({error}). output_dir = {output_dir} has {free:,.0f} MB free. "
        "Nothing was kept: free some space or choose another folder."
    )
