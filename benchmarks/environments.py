"""Virtual environments with other versions than this one's, kept under the cache folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.checkpoints.download import cache_folder
from utils.files import write_text


def interpreter(name: str, requirements: Sequence[str], python: str = sys.executable) -> Path:
    """That of the environment `name`; made on first use, whole or not at all. RuntimeError, pip's, when it fails.

    Made anew where it was made of another Python or of other requirements.
    """
    folder = cache_folder() / "environments" / name
    found, complete = folder / "bin" / "python", folder / "complete"
    made_of = "\n".join([version_of(python), *requirements])
    if not complete.is_file() or complete.read_text(encoding="utf-8") != made_of:
        print(f"making the environment {folder}: gigabytes, and minutes", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(found), "-m", "pip", "install", "--quiet", *requirements]
        done = subprocess.run(pip, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(str([line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:]))
        write_text(complete, made_of)
    return found


def version_of(python: str) -> str:
    """Such as "Python 3.13.0"; empty where there is no such command, or it does not start, like some of pyenv's."""
    try:
        done = subprocess.run([python, "--version"], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
