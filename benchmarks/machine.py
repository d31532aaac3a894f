"""What a table of timings must say about where and how it was made."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from utils.machine.cores import usable_cores

PACKAGES = ("torch", "tensorflow", "onnx", "onnx-tf", "onnxruntime", "numpy")


def description(benchmark: str, arguments: Sequence[str], packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Processor, cores, system, load, versions, date and command, by the words to print them under.

    benchmark: the module's name in this package. packages: whose versions matter to it.
    """
    one, five, _ = os.getloadavg()
    return {
        "machine": f"{_processor()}, {usable_cores()} cores, {platform.system()}",
        "load average before the run": f"{one:.1f} in the last minute, {five:.1f} in the last five",
        "versions": ", ".join(
            [f"Python {platform.python_version()}", *(f"{package} {version(package)}" for package in packages)]
        ),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": shlex.join([Path(sys.executable).name, "-m", f"benchmarks.{benchmark}", *arguments]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (" ".join(x.partition(":")[2].split()) for x in lines if x.startswith("model name")), platform.machine()
    )
