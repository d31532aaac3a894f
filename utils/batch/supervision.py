"""A command watched from outside: how far it is, how much memory it takes, and that nothing of it stays.

The memory that is counted is what the command and all that it started have resident, added up. (A limit on address
space, RLIMIT_AS, is no use here: TensorFlow and JAX reserve many times what they touch.)
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from utils.command import PARENT_VARIABLE

_GRACE_SECONDS = 30  # for an interrupted notebook to clean up
_CELL = re.compile(rb"^cell (\d+ of \d+)\s*$", re.MULTILINE)


class Supervised:
    """A running command. `poll` must be called often: each call looks at the memory.

    It gets no input, and a session of its own, so that Ctrl-C in the terminal reaches it only through `interrupt`.
    `utils.command.run_command` in it notices when this process is gone.

    Args:
        command: as for subprocess.
        log: the file that takes its stdout and stderr.
        memory_mb: bound on the resident memory, in MB of 1,000,000 bytes. Above it, what the command has started is
            killed first, so that it can still say what happened and clean up.
        environment: variables that it finds besides those of this process.

    peak_mb: the most memory seen. exceeded: whether the bound was passed. seconds: since the start, or until the end.
    """

    def __init__(self, command: Sequence[str], log: Path, memory_mb: float, environment: Mapping[str, str]) -> None:
        self.log, self.memory_mb = log, memory_mb
        self.peak_mb, self.exceeded, self.seconds = 0.0, False, 0.0
        self._started, self._kill_at = time.monotonic(), float("inf")
        self._interrupted = False
        with log.open("wb") as file:
            self._process = psutil.Popen(
                command,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid()), **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._others: set[psutil.Process] = set()

    def poll(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        status = self._process.poll()
        self.seconds = time.monotonic() - self._started
        if status is not None:
            _kill(self._others)  # a kernel, say, whose parent was killed
            psutil.wait_procs(self._others, timeout=5)  # until then it holds its locks
            return status
        with suppress(psutil.Error):
            self._others |= set(self._process.children(recursive=True))
        memory_mb = sum(map(_resident_bytes, (self._process, *self._others))) / 1e6
        self.peak_mb = max(self.peak_mb, memory_mb)
        if memory_mb > self.memory_mb and not self.exceeded:
            self.exceeded = True
            _kill(self._others or {self._process})
            self._kill_at = time.monotonic() + _GRACE_SECONDS
        if time.monotonic() > self._kill_at:
            self.kill()
        return None

    def interrupt(self) -> None:
        """Asks the command to stop, once; kills it if it has not within seconds, as long as it is polled."""
        if not self._interrupted:
            self._interrupted = True
            self._kill_at = min(self._kill_at, time.monotonic() + _GRACE_SECONDS)
            with suppress(psutil.Error):
                self._process.terminate()

    def kill(self) -> None:
        """Ends the command and all that it has started, at once."""
        _kill({self._process, *self._others})

    @property
    def progress(self) -> str:
        """How many cells of its notebook are done, "3 of 25", as `utils.convert --progress lines` prints it; or ""."""
        found = _CELL.findall(self.log.read_bytes())
        return found[-1].decode() if found else ""


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss if process.is_running() else 0  # not another one that got its number
    except psutil.Error:
        return 0


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
