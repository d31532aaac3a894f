"""The model of a notebook whose `model` is "auto".

The newest artefact in some folders that has real weights, else the published one, else the official checkpoint,
converted on the spot; only where none of them can be had, random weights.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from utils.artefact.contents import read_manifest
from utils.artefact.opening import open_model
from utils.checkpoints.download import fetch
from utils.errors import CheckpointUnavailable, ConversionError, PackagingError
from utils.families.variants import artefact_name, get_variant

ROOT = Path(__file__).resolve().parents[2]
VARIANT, TINY = "convmixer_768_32", "convmixer_tiny"  # with the official weights, and with random ones
REPOSITORY = "https://github.com/mixers-to-tensorflow/mixers-to-tensorflow"
RELEASE = f"{REPOSITORY}/releases/latest/download"
NOTEBOOK = f"{REPOSITORY}/blob/main/conversion_convmixer.ipynb"
_CELL = re.compile(r"cell (\d+) of (\d+)$")  # what `--progress lines` prints


class AtHand(NamedTuple):
    """What `model` is taken to be; and what the notebook shows of the choice, "" where `model` was given."""

    model: str
    notice: str


def at_hand(model: str, head: str, *folders: str, release: str = RELEASE) -> AtHand:
    """`model` itself, unless it is "auto".

    Args:
        model: a notebook's parameter.
        head: of the artefact, "classification" or "fe".
        folders: where conversions are looked for; one that is made is left in the last.
        release: the address under which tarballs are published.

    Raises:
        ConversionError: the official checkpoint, or a tiny model, could not be converted.
    """
    if model != "auto":
        return AtHand(model, "")
    places, named = [Path(folder).expanduser().absolute() for folder in folders], " or ".join(folders)
    if newest := _newest(places, head, real=True):
        return AtHand(str(newest), f"model = auto: {newest.name}, the newest in {newest.parent.name}")
    address = f"{release}/{artefact_name(VARIANT, head, 'official')}.tar.gz"
    try:
        open_model(address)  # TF Hub keeps what it fetches: the notebook opens it from there
        return AtHand(address, f"model = auto: {named} has no model, so the published one was fetched: {address}")
    except PackagingError:
        pass  # the official checkpoint is another way to the same model
    try:
        fetch(get_variant(VARIANT))
    except CheckpointUnavailable:
        made = _newest(places, head, real=False) or _converted(TINY, head, "synthetic", places[-1])
        return AtHand(
            str(made),
            f"SYNTHETIC WEIGHTS: {made.name} has random weights and recognises nothing. {named} has no real model, and "
            "neither a published one nor the official checkpoint could be fetched. Where there is a network, make one "
            f"with `make convert CHECKPOINT=official HEAD={head}` or {NOTEBOOK}",
        )
    made = _converted(VARIANT, head, "official", places[-1])
    return AtHand(
        str(made), f"model = auto: {named} has no model, and none is published, so the authors' {VARIANT} was converted"
    )


def _converted(variant: str, head: str, checkpoint: str, folder: Path) -> Path:
    """Converts, with a bar over the notebook's cells. ConversionError with what the command said if it fails.

    In a process of its own: this one may have a GPU in use, and conversions take the CPU.
    """
    from tqdm.auto import tqdm

    options = ["--variant", variant, "--head", head, "--checkpoint", checkpoint, "--output-dir", str(folder)]
    command = [sys.executable, "-m", "utils.convert", *options, "--progress", "lines"]
    said = []
    with (
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process,
        tqdm(desc=f"converting {variant}", unit="cell", file=sys.stdout, mininterval=3) as bar,
    ):
        try:
            for line in process.stdout:
                if done := _CELL.match(line):
                    bar.total = int(done[2])
                    bar.update(int(done[1]) - bar.n)
                else:
                    said.append(line)
        except KeyboardInterrupt:
            process.terminate()  # it cleans up, then ends
            raise
    if process.returncode:
        reason = "".join(said).strip()[-2000:]
        raise ConversionError(
            f"model is 'auto', and {variant} could not be converted: {reason} Give the path of a model."
        )
    return folder / artefact_name(variant, head, checkpoint)


def _newest(folders: Sequence[Path], head: str, real: bool) -> Path | None:
    """The SavedModel or tarball of the manifest that was written last; broken ones do not count.

    real: whether its weights are to be real ones, or synthetic.
    """
    manifests = [path for folder in folders for path in folder.glob("*.json")]
    for path in sorted(manifests, key=_written, reverse=True):
        try:
            manifest = read_manifest(path)
        except PackagingError:
            continue
        found = [place for place in (path.with_suffix(""), path.with_suffix(".tar.gz")) if place.exists()]
        right = manifest["head"] == head and (manifest["weights"] != "synthetic") == real
        if right and manifest["name"] == path.stem and found:
            return found[0]
    return None


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # gone since it was listed: reading it will say so
        return 0.0
