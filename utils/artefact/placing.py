"""What `staging` does on disk: a hidden, locked folder to grow in, and the renames into place, all of them or none.

Each process holds a lock on its folder's `lock` file. The system lets go of it however the process ends, so what a
killed one left can be told from what a live one is writing. Below the folder: `new/` with what shall be placed, under
its final names, and `old/` with what it replaces, from the first rename on; `names` says what was in `new/` then.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from utils.artefact.contents import placed_names
from utils.errors import PackagingError
from utils.files import write_text

# File systems without locks (network drives) leave only age to tell by; so does a kill before the lock was there.
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
            (folder / "new").mkdir()
            lock = (folder / "lock").open("wb")
            with suppress(OSError):  # no locks here: age decides
                fcntl.flock(lock, fcntl.LOCK_EX)
            return folder, lock


def clear(output_dir: Path, name: str) -> None:
    """Removes what dead processes left of `name`, or puts back what they had moved away."""
    with explained(output_dir), _only_one(output_dir):
        _clear_stale(output_dir, name)


def place(folder: Path, output_dir: Path, name: str, require: Callable[[], None]) -> None:
    """Moves what is in `folder/new` to `name`'s final names in `output_dir`; a move that fails undoes them all.

    A name that is not in `new/` is taken away, if it is there: what belongs to an earlier artefact must not stay beside
    a later one. Each rename is atomic, all of them are not: a process killed between two of them leaves some of both,
    until the next `make_folder` or `place` for the same artefact puts the old ones back.

    Args:
        folder: As `make_folder` gives it.
        output_dir: Where the artefact goes.
        name: The artefact's.
        require: Raises where the name must not be taken; called while no other process can place anything there.
    """
    with explained(output_dir), _only_one(output_dir):
        _clear_stale(output_dir, name, but=folder)
        require()
        brought = [final for final in placed_names(name) if os.path.lexists(folder / "new" / final)]
        (folder / "names").write_text("\n".join(brought), encoding="utf-8")
        (folder / "old").mkdir()
        try:
            for final in placed_names(name):
                if os.path.lexists(output_dir / final):
                    os.replace(output_dir / final, folder / "old" / final)
                if final in brought:
                    os.replace(folder / "new" / final, output_dir / final)
        except BaseException:
            _put_back(folder, output_dir, name)
            raise


def replace_text(path: Path, text: str) -> None:
    """Writes a small file whole or not at all; PackagingError where that is not possible."""
    with explained(path.parent):
        write_text(path, text)


def _put_back(folder: Path, output_dir: Path, name: str) -> None:
    """Undoes an unfinished `place`, going by what lies where; may be interrupted and called again."""
    new, old, names = folder / "new", folder / "old", placed_names(name)
    waiting = [final for final in names if os.path.lexists(new / final)]
    if not old.is_dir() or not waiting:  # never begun, or finished
        return
    brought = (folder / "names").read_text(encoding="utf-8").splitlines()
    for final in names:
        if final in brought and final not in waiting:
            os.replace(output_dir / final, new / final)
        if os.path.lexists(old / final):
            os.replace(old / final, output_dir / final)
    old.rmdir()


def _clear_stale(output_dir: Path, name: str, but: Path | None = None) -> None:
    for folder in output_dir.glob(f".{name}.partial-*"):
        if folder != but and _is_stale(folder):
            _put_back(folder, output_dir, name)
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
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        raise full(output_dir, error) or PackagingError(
            f"output_dir = {output_dir} {'is a file, or inside one' if is_file else 'cannot be written'} ({error}). "
            "Choose a folder that you may write to."
        ) from error


def full(output_dir: Path, error: BaseException) -> PackagingError | None:
    """The error for people, if no space was left. TensorFlow has several for it, with the system's words in them."""
    if getattr(error, "errno", None) not in _NO_SPACE and "No space left on device" not in str(error):
        return None
    free = shutil.disk_usage(output_dir).free / 1e6
    return PackagingError(
        f"no space was left to write to ({error}). output_dir = {output_dir} has {free:,.0f} MB free. "
        "Nothing was kept: free some space or choose another folder."
    )
