"""A `.keras` file as an archive: written so that the same model gives the same bytes, and read without running it.

A zip archive of `config.json` (the layers), `model.weights.h5` and `metadata.json` (Keras's version). This project adds
a `record` of what the model is to the last one: with a fourth member, Keras would unpack the whole archive into a
temporary folder whenever it loads it.

    record = json.loads(zipfile.ZipFile("model.keras").read("metadata.json"))["record"]

Needs Python's own library alone.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from utils.archives import ArchiveError, Refusal, open_zip, read_member
from utils.errors import PackagingError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
RECORD = "record"
_MEMBERS = {CONFIG: 64 << 20, METADATA: 64 << 20, WEIGHTS: 16 << 30}  # bytes, unpacked, that a file may claim
_DATE = "1980-01-01@00:00:00"  # zip's first: when a file was made must not make it another
_SHARED = "shared_object_id"
# Arguments at their defaults that Keras writes today, and that the Keras of a year ago refuses.
_NEWER = dict.fromkeys(("input_axes", "output_axes", "quantization_config", "renorm_clipping"))
_NEWER |= {"optional": False, "ragged": False, "renorm": False, "renorm_momentum": 0.99, "rms_scaling": False}

# All that these models are made of, by Keras's module, and none of it brings code of the file's own, as Lambda,
# TFSMLayer and TorchModuleWrapper do.
KNOWN = {
    "keras": {"DTypePolicy"},
    "keras.initializers": {"GlorotUniform", "Ones", "Zeros"},
    "keras.layers": {
        *("Activation", "Add", "BatchNormalization", "Conv2D", "Dense", "DepthwiseConv2D", "GlobalAveragePooling1D"),
        *("GlobalAveragePooling2D", "InputLayer", "LayerNormalization", "Permute", "Reshape"),
    },
    "keras.src.models.functional": {"Functional"},
    "keras.src.ops.nn": {"Gelu"},
}


def rewrite(saved: Path, target: BinaryIO, record: Mapping[str, Any]) -> None:
    """Writes what Keras has saved, with the `record`, and without what differs between runs or needs a newer Keras.

    The former are the date, in two places, and numbers of shared objects, which are addresses in memory; the latter,
    arguments that older versions do not know, where they have their defaults.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(target, "w") as archive:
        metadata = json.loads(source.read(METADATA)) | {"date_saved": _DATE, RECORD: dict(record)}
        texts = {METADATA: metadata, CONFIG: _settled(json.loads(source.read(CONFIG)), {})}
        for name, content in texts.items():
            archive.writestr(zipfile.ZipInfo(name), json.dumps(content, ensure_ascii=False, allow_nan=False))
        with source.open(WEIGHTS) as weights, archive.open(zipfile.ZipInfo(WEIGHTS), "w", force_zip64=True) as copy:
            shutil.copyfileobj(weights, copy, 1 << 20)


def _settled(config: Any, numbers: dict[int, int]) -> Any:
    """The same without newer defaults, and with shared objects numbered in the order in which they come."""
    if isinstance(config, list):
        return [_settled(value, numbers) for value in config]
    if not isinstance(config, dict):
        return config
    kept = {key: value for key, value in config.items() if key not in _NEWER or value != _NEWER[key]}
    if kept.get("class_name") == "Gelu":  # an operation's name, which is one of those newer arguments
        kept["config"] = {key: value for key, value in kept["config"].items() if key != "name"}
    found = {key: _settled(value, numbers) for key, value in kept.items() if key != _SHARED}
    return found | ({_SHARED: numbers.setdefault(config[_SHARED], len(numbers) + 1)} if _SHARED in config else {})


def read_record(path: Path) -> dict[str, Any]:
    """What this project wrote about the model: a stranger may have. PackagingError for what is no such file."""
    record = _read_json(path, METADATA).get(RECORD)
    if not isinstance(record, dict):
        raise PackagingError(
            f"{path}: {METADATA} has no {RECORD!r}, which says what the model is: no file of this project. "
            "Convert a checkpoint with formats = 'saved_model, keras'."
        )
    return record


def read_version(path: Path) -> str:
    """Keras's, that wrote the file."""
    return str(_read_json(path, METADATA).get("keras_version"))


def check(path: Path) -> None:
    """PackagingError unless the file is a whole archive, of nothing but those layers that these models are made of."""
    config = _read_json(path, CONFIG)
    for module, name in _classes(config):
        if name not in KNOWN.get(module, ()):
            raise PackagingError(
                f"{path}: {CONFIG} asks for {module}.{name}, of which no model here is made; a layer such as Lambda "
                "holds code, which would run here. It was not loaded. Get the file again, from where it was published."
            )


def _classes(config: Any) -> Iterator[tuple[str, str]]:
    """(module, name) of every object in a configuration, in whatever Keras would make objects of."""
    if isinstance(config, dict):
        if "class_name" in config and config["class_name"] != "__keras_tensor__":
            yield str(config.get("module")), str(config["class_name"])
        config = list(config.values())
    for value in config if isinstance(config, list) else ():
        yield from _classes(value)


def _read_json(path: Path, member: str) -> dict[str, Any]:
    expected = f"Expected a .keras file, a zip archive of {', '.join(_MEMBERS)}. Get the file again."
    with open_zip(path, Refusal(str(path), PackagingError, expected), _MEMBERS) as archive:
        found = json.loads(read_member(archive, member))
        if not isinstance(found, dict):
            raise ArchiveError(f"{member} holds no object")
    return found
