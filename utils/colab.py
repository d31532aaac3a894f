"""Installs in Colab what a notebook needs and Colab lacks."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def install_missing() -> list[str]:
    """Install every pinned requirement that is not there in any version; what is there stays as it is.

    Returns what was installed. Raises CalledProcessError when pip fails.
    """
    installed = []
    for file, options in (("requirements.txt", []), ("requirements-onnx-tf.txt", ["--no-deps"])):
        missing = [pin for pin in _pins(ROOT / file) if not _is_installed(pin.split("==")[0])]
        if missing:
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *options, *missing], check=True)
        installed += missing
    return installed


def _pins(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
