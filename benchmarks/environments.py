"""Environments with other packages than this one's, Python's and Node's, kept under the cache folder."""

from __future__ import annotations

import os
import shutil
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
    made_of = "\n".join([output(python, "--version").strip(), *requirements])
    folder = cache_folder() / "environments" / name
    found, complete = folder / "bin" / "python", folder / "complete"
    if not complete.is_file() or complete.read_text(encoding="utf-8") != made_of:
        print(f"making the environment {folder}: gigabytes, and minutes", flush=True)
        output(python, "-m", "venv", "--clear", folder)
        output(found, "-m", "pip", "install", "--quiet", *requirements)
        write_text(complete, made_of)
    return found


def node_modules(name: str, packages: Sequence[str]) -> Path:
    """The folder of npm's packages, as `interpreter`: such as "@tensorflow/tfjs@4.22.0". RuntimeError without npm."""
    folder = cache_folder() / "environments" / name
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        output("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder, *packages)
        (folder / "complete").touch()
    return folder / "node_modules"


def output(*line: object, **variables: object) -> str:
    """What a command prints, without this repository on its path.

    RuntimeError with its last words where it fails, and where it is not there.
    """
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": ""}
    added = quiet | {key: str(value) for key, value in variables.items()}
    try:
        done = subprocess.run(list(map(str, line)), env=os.environ | added, capture_output=True, text=True)
    except FileNotFoundError:
        raise RuntimeError(f"{line[0]} is not installed") from None
    if done.returncode:
        raise RuntimeError(" ".join((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-2:])[:200])
    return done.stdout
