"""Colab: installs what it lacks and leaves alone what it has, says what is unknown, and offers downloads.

Installs with the standard library alone, because nothing else need be there yet.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from utils.errors import ConversionError
from utils.tables import aligned

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "assets" / "tables" / "colab.json"  # written by python -m benchmarks.colab
FILES = {"requirements.txt": [], "requirements-onnx-tf.txt": ["--no-deps"]}  # and pip's options
PYTHONS = ("3.11", "3.12", "3.13")
# For running a notebook as a command; in Colab it is open already.
COMMANDS_ONLY = ("papermill", "ipykernel", "nbconvert")

# What pip takes in a constraints file: `name==` a version that PEP 440 knows. Colab's systems packages have others.
_VERSION = re.compile(r"[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9.]+)?")


def set_up() -> None:
    """What a notebook's first cell calls in Colab: installs, then prints what was installed and what is unknown.

    Raises ConversionError when something that is needed cannot be installed.
    """
    installed = install_missing()
    print(f"Installed: {', '.join(installed) or 'nothing'}. What was there stays as it is.")
    print(version_report(installed_versions(), known_versions()))


def offer_downloads(*files: Path) -> None:
    """In Colab a button for each file, by which the browser fetches it; elsewhere nothing."""
    try:
        from google.colab.files import download
    except ImportError:
        return
    import ipywidgets
    from IPython.display import display

    for file in files:
        button = ipywidgets.Button(description=f"Download {file.name}", layout={"width": "auto"})
        button.on_click(lambda _, path=str(file): download(path))
        display(button)


def install_missing() -> list[str]:
    """Install every pinned requirement that is not there in any version; returns what was installed, with versions.

    Whatever is there is held where it is. Where a pin does not go with that, the newest version that does is taken.
    Raises ConversionError when there is none.
    """
    installed = []
    for file, options in FILES.items():
        for name, version in pins(ROOT / file).items():
            if name in COMMANDS_ONLY or canonical(name) in installed_versions():
                continue
            print(f"Installing {name} ...", flush=True)
            _install(name, version, options)
            importlib.invalidate_caches()
            installed.append(f"{name} {installed_versions()[canonical(name)]}")
    return installed


def _install(name: str, version: str, options: list[str]) -> None:
    held = [f"{there}=={found}" for there, found in installed_versions().items() if _VERSION.fullmatch(found)]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(held) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), *options]
        for requirement in (f"{name}=={version}", name):
            done = subprocess.run([*command, requirement], capture_output=True, text=True)
            if done.returncode == 0:
                return
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    raise ConversionError(
        f"{name} could not be installed beside what Colab has: {' '.join(errors[:3]) or 'pip said nothing'}. "
        "Try another runtime version (Runtime > Change runtime type), or run the notebook on your own machine."
    )


def known_versions() -> dict[str, list[str]]:
    """Tested versions by name, oldest first: the pins, and those of Colab's runtimes where all notebooks ran."""
    from packaging.version import parse  # TensorFlow and others need it, so it is there by now

    known = {name: {version} for file in FILES for name, version in pins(ROOT / file).items()}
    runs = json.loads(RUNS.read_text(encoding="utf-8"))["samples"] if RUNS.is_file() else []
    failed = {run["runtime"] for run in runs if run["verdict"] != "yes"}
    for run in runs:
        for name, version in run["versions"].items() if run["runtime"] not in failed else ():
            known.setdefault(name, set()).add(version)
    return {name: sorted(versions, key=parse) for name, versions in known.items()} | {"python": list(PYTHONS)}


def version_report(installed: Mapping[str, str], known: Mapping[str, Iterable[str]]) -> str:
    """A table of what is installed in a version that nobody tested, or a line that there is no such thing.

    installed: version by canonical name. known: `known_versions()`.
    """
    here = {name: installed.get(canonical(name), "") for file in FILES for name in pins(ROOT / file)}
    # PyTorch's 2.13.0+cpu is 2.13.0.
    here = {name: version.partition("+")[0] for name, version in here.items() if name not in COMMANDS_ONLY and version}
    here |= {"python": ".".join(map(str, sys.version_info[:2]))}
    rows = [(name, version, ", ".join(known[name])) for name, version in here.items() if version not in known[name]]
    if not rows:
        return "Every version is one that this was tested with."
    table = aligned([("", "here", "tested with"), *rows])
    return f"These versions are not among those that this was tested with:\n{table}"


def pins(path: Path) -> dict[str, str]:
    """Version by name of a requirements file whose lines are `name==version`."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def installed_versions() -> dict[str, str]:
    """Version by canonical name of everything that is installed; of several by one name the one that is imported."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(canonical(name), distribution.version)
    return found


def canonical(name: str) -> str:
    """A distribution's name as all ways to write it become one."""
    return re.sub(r"[-_.]+", "-", name).lower()
