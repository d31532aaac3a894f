"""Opens an artefact of this project, wherever it is: SavedModel folder, tarball, `.keras` file, an address for TF Hub.

What comes in is data: tarballs are unpacked by `tarball`; `contents` checks the manifest, and compares each file
with the SHA-256 in it. A `.keras` file is read, not loaded: what it holds is checked, and it tells of itself. Addresses
are fetched by TF Hub, which unpacks plain files and folders only and keeps them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.artefact.contents import architecture_of, differences, manifest_of, preprocessing_of, published_hash
from utils.artefact.lite_file import LABELS, MODEL, unpack_lite
from utils.artefact.manifest import UNLISTED
from utils.artefact.record import check_record
from utils.artefact.tarball import extract_tarball
from utils.errors import ConversionError, PackagingError, ParameterError
from utils.families.base import Patches
from utils.families.variants import OUTPUTS, Preprocessing, Variant, get_variant, own_variant
from utils.files import hash_file, hash_files, user_path
from utils.images.labels import Label, read_labels
from utils.keras_models.archive import check, read_record


@dataclass(frozen=True)
class Pretrained:
    """An artefact that was opened, all of its files known to be those that were published.

    folder: the SavedModel; None if a `.keras` file was opened. manifest: of a `.keras` file, its record.
    output: "logits" or "features". units: how many of them. labels: None if it names no classes. hashes: SHA-256 of
    every file by path. keras_file: the `.keras` file that was opened, or found to be the SavedModel's.
    """

    folder: Path | None
    manifest: Mapping[str, Any]
    output: str
    units: int
    preprocessing: Preprocessing
    labels: list[Label] | None
    hashes: Mapping[str, str]
    keras_file: Path | None = None
    temporary: tempfile.TemporaryDirectory | None = None  # keeps what was unpacked, until this is forgotten

    @property
    def name(self) -> str:
        """The artefact's."""
        return self.manifest["name"]

    @property
    def weights(self) -> str:
        """Where they came from: "official", "synthetic" (random numbers) or "custom"."""
        return self.manifest["weights"]

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 by path, without the manifest and the model card."""
        return self.manifest["files"]

    @property
    def image_size(self) -> int:
        """Of both sides, which a SavedModel takes; 0 for any."""
        return self.manifest["signatures"]["serving_default"]["inputs"]["inputs"]["shape"][1] or 0

    @property
    def variant(self) -> Variant:
        """The variant's row; of one's own checkpoint, what its manifest says of it.

        ParameterError if this version has no such row; PackagingError as `architecture_of`.
        """
        if self.weights != "custom":
            return get_variant(self.manifest["variant"])
        return own_variant(
            self.manifest["model"]["family"],
            name=self.manifest["variant"],
            architecture=self.architecture,
            preprocessing=self.preprocessing,
        )

    @property
    def architecture(self) -> Patches:
        """The model's sizes, as the manifest has them."""
        return architecture_of(self.manifest)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in the outputs' order; numbers if it has no names, none for features."""
        if self.labels is not None:
            return tuple(label.name for label in self.labels)
        return tuple(f"class {i}" for i in range(self.units if self.output == "logits" else 0))


def open_models(models: Iterable[str]) -> dict[str, Pretrained]:
    """Opens each, as `open_model` or `open_keras`, by its artefact's name, with ".keras" behind it for such a file.

    ParameterError if two are the same.
    """
    opened: dict[str, Pretrained] = {}
    for model in models:
        found = open_keras(user_path(model)) if is_keras(model) else open_model(model)
        name = found.name if found.folder else f"{found.name}.keras"
        if name in opened:
            raise ParameterError(f"model {model!r} is {name}, which was named already. Name each model once.")
        opened[name] = found
    return opened


def is_keras(model: str) -> bool:
    """Whether a `.keras` file of this machine is meant."""
    return "://" not in model and model.endswith(".keras")


def open_keras(path: Path) -> Pretrained:
    """Reads a `.keras` file without loading it, and compares it with the manifest beside it. Raises as `open_model`."""
    if not path.is_file():
        raise ParameterError(
            f"model '{path}': there is no such file. Convert a checkpoint with formats = 'saved_model, keras' first."
        )
    record = read_record(path)
    check(path)
    return open_recorded(path, record)


def open_recorded(path: Path, record: Mapping[str, Any]) -> Pretrained:
    """A `.keras` or `.onnx` file by the record that was read from it. PackagingError unless both are what they say."""
    check_record(record, path.name)
    published, found = published_hash(path, record["name"]), hash_file(path)
    if published not in (None, found):
        raise PackagingError(
            f"{path} is not the file that was published: its SHA-256 is {found}, and the manifest beside it says "
            f"{published}. Fetch or convert it again."
        )
    return Pretrained(
        folder=None,
        manifest=record,
        output=record["output"],
        units=record["units"],
        preprocessing=preprocessing_of(record),
        labels=[Label(*label) for label in record["labels"]] if record.get("labels") else None,
        hashes={path.name: found},
        keras_file=path.absolute() if path.suffix == ".keras" else None,
    )


def open_lite(path: Path) -> Pretrained:
    """Unpacks a `.tflite` file, whose model is `lite_file.MODEL` in the folder then. Raises as `open_model`."""
    if not path.is_file():
        raise ParameterError(f"model '{path}': there is no such file. Make one with `python -m utils.smaller`.")
    temporary = tempfile.TemporaryDirectory(prefix="model-")
    return _opened(unpack_lite(path, Path(temporary.name) / "model"), temporary)


def open_model(model: str) -> Pretrained:
    """Opens a SavedModel: a folder, a .tar.gz or an address (https://…). Local ones download nothing.

    Raises ParameterError if there is nothing, saying what there is, and PackagingError for what is no artefact of
    this project, damaged or changed.
    """
    temporary, path = None, user_path(model)
    if is_keras(model):
        raise ParameterError(f"model {model!r} is a .keras file; here a SavedModel is needed, its folder or .tar.gz.")
    if "://" in model:
        folder = _fetched(model)
    elif path.is_file():
        temporary = tempfile.TemporaryDirectory(prefix="model-")
        folder = extract_tarball(path, Path(temporary.name) / "model")
    elif (path / "saved_model.pb").is_file():
        folder = path.absolute()
    else:
        there = sorted(each.name for each in (path if path.is_dir() else path.parent).glob("*.tar.gz"))
        said = f"Tarballs there: {', '.join(there)}. " if there else ""
        raise ParameterError(
            f"model {model!r}: {'that folder holds no saved_model.pb' if path.is_dir() else 'there is no such file'}. "
            f"{said}Convert one first (`make convert`, or a "
            "conversion notebook), then pass its folder, its .tar.gz, or an address of such a tarball."
        )
    try:
        return _opened(folder, temporary)
    except (ConversionError, OSError) as error:
        kept = ""
        if model.startswith(("https://", "http://")):  # or else it would be found there, and refused, for ever
            shutil.rmtree(folder, ignore_errors=True)
            kept = f" What was fetched was removed from TF Hub's cache ({folder})."
        raise PackagingError(f"model {model!r}: {error}{kept}") from error


def _fetched(address: str) -> Path:
    from utils.machine.hub_compat import import_hub

    try:
        return Path(import_hub().resolve(address))
    except Exception as error:  # urllib's, tarfile's and TF Hub's own, by the stage that failed
        raise PackagingError(
            f"model {address!r} could not be fetched: {str(error) or type(error).__name__}. Check the address and the "
            "connection, or download the tarball in another way and pass its path."
        ) from error


def _opened(folder: Path, temporary: tempfile.TemporaryDirectory | None) -> Pretrained:
    manifest = manifest_of(folder)
    hashes = hash_files(folder)
    if faults := differences(hashes, manifest):
        raise PackagingError(f"{faults}. Fetch or convert it again.")
    preprocessing = preprocessing_of(manifest)
    output, units = _interface(manifest, preprocessing.channels)
    labels = folder / (LABELS if (folder / MODEL).is_file() else "assets.extra/labels.tsv")
    return Pretrained(
        folder=folder,
        manifest=manifest,
        output=output,
        units=units,
        preprocessing=preprocessing,
        labels=read_labels(labels, units) if labels.is_file() else None,
        hashes=hashes,
        temporary=temporary,
    )


def _interface(manifest: Mapping[str, Any], channels: int) -> tuple[str, int]:
    """Name and number of what the model gives, where its default signature is that of a model of ours."""
    signature, output = manifest["signatures"]["serving_default"], OUTPUTS[manifest["head"]]
    taken = "images" if manifest.get("format") == "tflite" else "inputs"
    try:
        _, *sizes, found = signature["inputs"][taken]["shape"]
        *_, units = signature["outputs"][output]["shape"]
        counts = [units, *(size for size in sizes if size is not None)]  # None: any height or width
        fits = len(sizes) == 2 and found == channels and all(type(count) is int and count > 0 for count in counts)
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise PackagingError(
            f"{UNLISTED[0]}: serving_default is {signature}; expected {taken} [B, height, width, {channels}] and "
            f"{output} [B, units]. Fetch or convert it again."
        )
    return output, units
