"""The model of a notebook whose `model` is "auto".

The newest artefact in some folders, else the one that was published, else a tiny one, converted on the spot.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.artefact.contents import read_manifest
from utils.artefact.opening import open_model
from utils.errors import ConversionError, PackagingError
from utils.families.variants import artefact_name

ROOT = Path(__file__).resolve().parents[2]
VARIANT, TINY = "convmixer_768_32", "convmixer_tiny"  # the published one that is taken; the one that is converted
RELEASE = "https://github.com/mixers-to-tensorflow/mixers-to-tensorflow/releases/latest/download"


class AtHand(NamedTuple):
    """What `model` is taken to be, and what whoever runs the notebook must be told, or nothing."""

    model: str
    notice: str


def at_hand(model: str, head: str, *folders: str, release: str = RELEASE) -> AtHand:
    """`model` itself, unless it is "auto".

    Args:
        model: a notebook's parameter.
        head: of the artefact, "classification" or "fe".
        folders: where conversions are looked for; a tiny one is left in the last.
        release: the address under which tarballs are published.

    Raises:
        ConversionError: no model can be had.
    """
    if model != "auto":
        return AtHand(model, "")
    places, named = [Path(folder).expanduser().absolute() for folder in folders], " or ".join(folders)
    if newest := _newest(places, head):
        return AtHand(str(newest), f"model = auto: {newest.name}, the newest in {newest.parent.name}")
    address = f"{release}/{artefact_name(VARIANT, head, 'official')}.tar.gz"
    try:
        open_model(address)  # TF Hub keeps what it fetches: the notebook opens it from there
    except PackagingError as error:
        reason = str(error).splitlines()[0]
    else:
        return AtHand(address, f"model = auto: there is none in {named}, so the published one was fetched: {address}")
    # In a process of its own: this one may have a GPU in use, and conversions take the CPU.
    options = ["--variant", TINY, "--head", head, "--checkpoint", "synthetic", "--output-dir", str(places[-1])]
    command = [sys.executable, "-m", "utils.convert", *options, "--progress", "lines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConversionError(
            f"model is 'auto', and a tiny one could not be converted: {done.stderr.strip()[-2000:]} Give the path of a "
            "model."
        )
    made = places[-1] / artefact_name(TINY, head, "synthetic")
    return AtHand(
        str(made),
        f"model = auto: there is none in {named}, and {reason} So {made.name} was converted, a tiny model of "
        "SYNTHETIC WEIGHTS, random numbers, which recognises nothing. Convert or download a real one for real answers.",
    )


def _newest(folders: Sequence[Path], head: str) -> Path | None:
    """The SavedModel or tarball of the manifest that was written last; broken ones do not count."""
    manifests = [path for folder in folders for path in folder.glob("*.json")]
    for path in sorted(manifests, key=_written, reverse=True):
        try:
            manifest = read_manifest(path)
        except PackagingError:
            continue
        found = [place for place in (path.with_suffix(""), path.with_suffix(".tar.gz")) if place.exists()]
        if manifest["head"] == head and manifest["name"] == path.stem and found:
            return found[0]
    return None


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone since it was listed: reading it will say so
        return 0.0
