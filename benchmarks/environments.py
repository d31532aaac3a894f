"""Virtual environments with other versions than this one's, kept under the cache folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.checkpoints.download import cache_folder


def interpreter(name: str, requirements: Sequence[str], python: str = sys.executable) -> Path:
    """That of the environment `name`; made on first use, whole or not at all. RuntimeError, pip's, when it fails."""
    folder = cache_folder() / "environments" / name
    found = folder / "bin" / "python"
    if not (folder / "complete").exists():
        print(f"making the environment {folder}: gigabytes, and minutes", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(found), "-m", "pip", "install", "--quiet", *requirements]
        done = subprocess.run(pip, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(str([line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:]))
        (folder / "complete").touch()
    return found
