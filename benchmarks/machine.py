"""What a table of timings must say about where and how it was made."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("torch", "tensorflow", "onnx", "onnx-tf", "onnxruntime", "numpy")


def description(arguments: list[str]) -> dict[str, str]:
    """Processor, cores, system, load, versions, date and command, by the words to print them under."""
    one, five, _ = os.getloadavg()
    return {
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}",
        "load average before the run": f"{one:.1f} in the last minute, {five:.1f} in the last five",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{package} {version(package)}" for package in PACKAGES)]
        ),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join([Path(sys.executable).name, "-m", "benchmarks.convmixer", *arguments]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (" ".join(x.partition(":")[2].split()) for x in lines if x.startswith("model name")), platform.machine()
    )
