"""The processors that this process may run on. Only Linux says which, and only there can they be limited."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """How many processors this process may run on; all of the machine's where the system does not say, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_to_cores(count: int) -> None:
    """Have this process, and what it starts, run on `count` of the processors that it may run on.

    Raises RuntimeError where the system has no way to do that.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise RuntimeError(f"this process cannot be kept to {count} cores: os.sched_setaffinity, of Linux, is needed")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
