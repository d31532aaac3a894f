"""Opens an artefact of this project, wherever it is: SavedModel folder, tarball, or an address for TF Hub.

What comes in is data: tarballs are unpacked by `extraction`, the manifest is checked, and each file is compared with
the SHA-256 in it. Addresses are fetched by TF Hub, which unpacks plain files and folders only and keeps them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import ConversionError, PackagingError, ParameterError
from utils.extraction import extract_tarball
from utils.hashes import hash_files
from utils.labels import read_labels
from utils.manifest import UNLISTED, check_manifest
from utils.variants import Preprocessing

HOW_TO_GET_ONE = (
    "Convert one first (`make convert`, or a conversion notebook), then pass its folder, its .tar.gz, "
    "or an address of such a tarball."
)


@dataclass(frozen=True)
class Pretrained:
    """An artefact that was opened. output: "logits" or "features". names: of the classes, in the outputs' order."""

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    output: str
    preprocessing: Preprocessing
    names: tuple[str, ...]
    temporary: tempfile.TemporaryDirectory | None = None  # keeps what was unpacked, until this is forgotten

    @property
    def synthetic(self) -> bool:
        """Whether its weights are random numbers."""
        return self.manifest["weights"] == "synthetic"


def open_models(models: Iterable[str]) -> dict[str, Pretrained]:
    """Opens each, as `open_model`, by its artefact's name. ParameterError where two are the same artefact."""
    opened: dict[str, Pretrained] = {}
    for model in models:
        found = open_model(model)
        if found.name in opened:
            raise ParameterError(f"model {model!r} is {found.name}, which was named already. Name each model once.")
        opened[found.name] = found
    return opened


def open_model(model: str) -> Pretrained:
    """Opens a folder, a .tar.gz or an address (https://…). Local ones download nothing.

    Raises ParameterError where there is nothing, saying what there is, and PackagingError for what is no artefact of
    this project, damaged or changed.
    """
    temporary = None
    if "://" in model:
        folder = _fetched(model)
    else:
        path = Path(model).expanduser()
        if path.is_file():
            temporary = tempfile.TemporaryDirectory(prefix="model-")
            folder = extract_tarball(path, Path(temporary.name) / "model")
        elif (path / "saved_model.pb").is_file():
            folder = path
        else:
            raise ParameterError(f"model {model!r}: {_what_is_there(path)} {HOW_TO_GET_ONE}")
    try:
        return _opened(folder, temporary)
    except (ConversionError, OSError) as error:
        raise PackagingError(f"model {model!r}: {error}") from error


def _fetched(address: str) -> Path:
    from utils.hub_compat import import_hub

    try:
        return Path(import_hub().resolve(address))
    except Exception as error:  # urllib's, tarfile's and TF Hub's own, by the stage that failed
        raise PackagingError(
            f"model {address!r} could not be fetched: {str(error) or type(error).__name__}. Check the address and the "
            "connection, or download the tarball in another way and pass its path."
        ) from error


def _what_is_there(path: Path) -> str:
    """For somebody who mistyped, or passed the folder above."""
    folder = path if path.is_dir() else path.parent
    found = sorted(each.name for each in folder.glob("*.tar.gz")) if folder.is_dir() else []
    said = "that folder holds no saved_model.pb." if path.is_dir() else "there is no such file or folder."
    return f"{said} In {folder} there is: {', '.join(found)}." if found else said


def _opened(folder: Path, temporary: tempfile.TemporaryDirectory | None) -> Pretrained:
    path = folder / UNLISTED[0]
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackagingError(
            f"{UNLISTED[0]} is missing, which says what the model is and how its images are prepared: it is no "
            f"artefact of this project. {HOW_TO_GET_ONE}"
        ) from None
    except ValueError as error:
        raise PackagingError(f"{UNLISTED[0]} is no JSON ({error}). Fetch or convert the model again.") from error
    if not isinstance(manifest, dict):
        raise PackagingError(f"{UNLISTED[0]} should hold one JSON object. Fetch or convert the model again.")
    check_manifest(manifest)
    _require_unchanged(folder, manifest["files"])
    output, tensor = next(iter(manifest["signatures"]["serving_default"]["outputs"].items()))
    units = (tensor["shape"] or [None])[-1]
    if output not in ("logits", "features") or not isinstance(units, int):
        raise PackagingError(
            f"{UNLISTED[0]}: serving_default gives {output!r} of {units} units; expected a model here."
        )
    labels = folder / "assets.extra" / "labels.tsv"
    known = [label.name for label in read_labels(labels, units)] if labels.is_file() else []
    settings = manifest["model"]["preprocessing"]
    return Pretrained(
        name=manifest["name"],
        folder=folder,
        manifest=manifest,
        output=output,
        preprocessing=Preprocessing(**settings | {key: tuple(settings[key]) for key in ("mean", "std")}),
        names=tuple(known or (f"class {i}" for i in range(units if output == "logits" else 0))),
        temporary=temporary,
    )


def _require_unchanged(folder: Path, expected: Mapping[str, str]) -> None:
    found = {path: value for path, value in hash_files(folder).items() if path not in UNLISTED}
    if wrong := sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path)):
        raise PackagingError(
            f"{', '.join(wrong)} differs from what was verified when the model was made (SHA-256 in the manifest). "
            "Fetch or convert the model again."
        )
