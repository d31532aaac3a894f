"""Seconds and peak memory of a conversion's stages.

Memory is resident memory of this process in MB of 1,000,000 bytes, frameworks included.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MB = 1_000_000
# getrusage counts in bytes on macOS and in KiB on Linux.
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Stages:
    """Times named stages: `with stages("load"): ...`, then `stages.seconds["load"]`.

    A stage entered again adds to its seconds. Stages may be nested: the outer one's include the inner one's.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times what runs inside, also when it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @property
    def peak_memory_mb(self) -> float:
        """The most resident memory this process has held, in MB, since its start or the last reset."""
        try:
            # Where Linux tells it: getrusage there starts a process with the peak of the one that began it.
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
            return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024 / _MB
        except (OSError, TypeError):
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT / _MB
