"""Processors: counted and limited on Linux, counted elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.machine import cores

ROOT = Path(__file__).resolve().parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits processors")


@linux
def test_a_process_kept_to_one_core_counts_one():
    code = "from utils.machine.cores import *; print(usable_cores()); keep_to_cores(1); print(usable_cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0))), "1"]


def test_where_processors_cannot_be_limited_they_are_counted_and_limiting_them_is_an_error(monkeypatch):
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name, raising=False)  # macOS has neither
    monkeypatch.setattr(os, "cpu_count", lambda: 11)
    assert cores.usable_cores() == 11
    with pytest.raises(RuntimeError, match=r"cannot be kept to 2 cores: .*Linux"):
        cores.keep_to_cores(2)


def test_nobody_else_calls_what_only_linux_has():
    files = [path for folder in ("utils", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    callers = [path for path in files if "os.sched_" in path.read_text(encoding="utf-8")]
    assert callers == [ROOT / "utils" / "machine" / "cores.py"]
