"""What a checkpoint file holds, under its own keys, without executing anything that the file says.

The first bytes tell what a file is before any reader starts. PyTorch's files since 1.6 and NumPy's .npz are zip
archives; PyTorch's older ones begin with a pickled number, and .safetensors files with the length of a JSON header.
Nothing is unpacked before its size is checked.
"""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.archives import ArchiveError, Refusal, check_crc, npy_header, open_zip
from utils.errors import CheckpointError
from utils.files import user_path

Header = tuple[tuple[int, ...], str]  # shape and dtype name, or what the entry is, if it is no dense tensor

_ZIP_MAGIC = b"PK\x03\x04"
# What torch.save wrote first before version 1.6: MAGIC_NUMBER of torch/serialization.py, pickled.
_TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_SAFETENSORS_HEADER = b"{"  # after the header's length in 8 bytes: https://github.com/huggingface/safetensors#format
_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # the last: of PyTorch's own tutorial on checkpoints
_AVERAGES = ("state_dict_ema", "model_ema")  # of the weights: timm's train.py; DeiT's and torchvision's
# What trainers leave beside the weights (timm's train.py: `args`, and `metric`, a NumPy scalar). None of it is needed,
# so none of it is made: each of these names stands for `_Inert` while a file is read.
_INERT = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"pathlib.{local}{system}Path" for local in ("", "_local.") for system in ("Posix", "Windows", "PurePosix")),
)


@dataclass(frozen=True)
class Contents:
    """Headers at once, arrays on demand.

    read: the arrays of some keys, one after the other, of the dtypes in the headers, but bfloat16 as float32; raises
    CheckpointError. notes: what the user should know.
    """

    headers: Mapping[str, Header]
    read: Callable[[Iterable[str]], Iterator[np.ndarray]]
    notes: tuple[str, ...] = ()


def regular_file(path: str | os.PathLike) -> Path:
    """The path, if it is an ordinary file that can be read; else a CheckpointError that says what it is."""
    path = user_path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            path.open("rb").close()
            return path
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: there is no such file. "
            'Set checkpoint to "official", "synthetic", or the path of a local checkpoint file.'
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: the file cannot be read: {error.strerror or error}.") from error
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or pipe"
    raise CheckpointError(f"{path}: expected a checkpoint file, found {kind}. Give the path of the file itself.")


def why_not_checkpoint(path: Path) -> str | None:
    """Why a file cannot be a checkpoint, or None if its first bytes (and a zip archive's last) look right."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "is empty"
    if start.startswith(_ZIP_MAGIC):
        return None if zipfile.is_zipfile(path) else "is a zip archive cut short: its directory, at the end, is missing"
    if start.startswith(_TORCH_LEGACY_MAGIC) or start[8:9] == _SAFETENSORS_HEADER:
        return None
    if start.lstrip().lower().startswith(_WEB_PAGES):
        return "is a web page (a login or error page, perhaps)"
    if start.startswith(_PICKLES):
        return "is a bare Python pickle, which could run any program when read, and was not read"
    return f"is neither a PyTorch, .safetensors nor .npz file: it starts with {start[:8]!r}"


def open_contents(path: Path, limit: int, use_ema: bool, has_use_ema: bool) -> Contents:
    """Opens a file of any kind.

    Args:
        path: A regular file.
        limit: The most bytes that a PyTorch file may declare to unpack to.
        use_ema: Whether to take the moving average of the weights instead of the weights.
        has_use_ema: Whether a user can ask for that; a note then says how.

    Raises:
        CheckpointError: The file is no checkpoint, is damaged or unsafe, or has no moving average.
    """
    wrong = why_not_checkpoint(path)
    if wrong:
        raise CheckpointError(f"{path}: expected a checkpoint, but this {wrong}. Get the file again.")
    with path.open("rb") as file:
        start = file.read(len(_TORCH_LEGACY_MAGIC))
    zipped, is_torch = start.startswith(_ZIP_MAGIC), start == _TORCH_LEGACY_MAGIC
    if zipped:
        with _open_archive(path) as archive:
            names = archive.namelist()
            is_torch = any(name.endswith("/data.pkl") for name in names)
            if is_torch:
                _check_torch_archive(path, archive, limit)
    if is_torch:
        return _open_torch(path, zipped, use_ema, has_use_ema)
    if use_ema:
        raise CheckpointError(
            f"{path}: use_ema is True, and a file of this kind has one set of weights. Set use_ema to False."
        )
    if not zipped:
        return _open_safetensors(path)
    if not all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path}: expected a PyTorch file or an .npz, found a zip of other things: {', '.join(names[:5])}."
        )
    return _open_npz(path)


def _open_archive(path: Path) -> AbstractContextManager[zipfile.ZipFile]:
    """A zip file; CheckpointError for a damaged one, also inside the block."""
    return open_zip(path, Refusal(str(path), CheckpointError, "Get the file again."))


def _open_npz(path: Path) -> Contents:
    with _open_archive(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        headers = {key: _npy_header(archive, member) for key, member in members.items()}

    def read(keys: Iterable[str]) -> Iterator[np.ndarray]:
        with _open_archive(path) as archive:
            for key in keys:
                with archive.open(members[key]) as member:
                    # No more is unpacked than its header says, which was compared with the variant.
                    array = np.lib.format.read_array(member, allow_pickle=False)
                    if member.tell() != members[key].file_size:
                        raise ArchiveError(f"{key} is longer than its header says")
                    member.read(1)  # at the end, where zipfile compares the CRC
                yield array

    return Contents(headers, read)


def _npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    with archive.open(member) as file:
        shape, dtype = npy_header(file, member.filename)
    return shape, dtype.name if dtype.isnative else str(dtype)


def _open_safetensors(path: Path) -> Contents:
    """The library maps the file into memory, and refuses a header that is not true of the bytes after it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return _of_tensors(path, {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118, it is no dict
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{path}: the .safetensors file is damaged, or its header does not tell the truth: {error}. "
            "Get the file again."
        ) from error


class _Inert:
    """Takes any arguments and any state, keeps nothing, does nothing."""

    __slots__ = ()

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None: ...


def _open_torch(path: Path, zipped: bool, use_ema: bool, has_use_ema: bool) -> Contents:
    """The state dict, without wrappers ("state_dict", "model", "model_state_dict")."""
    content, notes = _load_torch(path, zipped), []
    averages = _mappings(content, _AVERAGES)
    if use_ema:
        if not averages:
            found = ", ".join(map(str, list(content)[:8])) if isinstance(content, Mapping) else type(content).__name__
            raise CheckpointError(
                f"{path}: use_ema is True, and the file has no {' or '.join(_AVERAGES)}; it has {found or 'nothing'}. "
                "Set use_ema to False, or give the trainer's own file."
            )
        content = content[averages[0]]
        notes.append(f"{path.name}: the moving average of the weights, {averages[0]}, was taken.")
    elif averages:
        choice = "set use_ema to True" if has_use_ema else "save it as a file of its own, and give that"
        notes.append(
            f"{path.name}: beside the weights the file has their moving average, {averages[0]}, which was not taken. "
            f"If the accuracy that you know is the average's, {choice}."
        )
    for _ in _WRAPPERS:
        inner = _mappings(content, _WRAPPERS)
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise CheckpointError(
            f"{path}: expected a state dict (tensors by name), alone or under "
            f"{' or '.join(map(repr, _WRAPPERS))}, found {type(content).__name__}. Save model.state_dict()."
        )
    # Not by its methods: an OrderedDict's state, which the file tells, may hide them behind other things.
    return _of_tensors(path, {key: content[key] for key in content}, tuple(notes))


def _mappings(content: Any, names: tuple[str, ...]) -> list[str]:
    """Those names under which there is a mapping; trainers leave None, or a model's name, under some."""
    if not isinstance(content, Mapping):
        return []
    return [name for name in names if name in content and isinstance(content[name], Mapping)]


def _check_torch_archive(path: Path, archive: zipfile.ZipFile, limit: int) -> None:
    members = archive.infolist()
    # torch.save never compresses, and mapping a compressed file would take its packed bytes for weights.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{path}: PyTorch files are not compressed, but this one is: a TorchScript module, perhaps. Get the "
            "original, or save the state dict alone: torch.save(model.state_dict(), path)."
        )
    declared = sum(member.file_size for member in members)
    if declared > limit:
        raise CheckpointError(
            f"{path}: unpacked, it would take {declared:,} bytes; checkpoints of this family need at most {limit:,}, "
            "with all that trainers save. It was not read."
        )
    check_crc(archive)  # PyTorch does not look


def _load_torch(path: Path, zipped: bool) -> Any:
    import torch

    try:
        # Mapping keeps the weights out of memory until they are used; only the zip format can be mapped.
        with torch.serialization.safe_globals([(_Inert, name) for name in _INERT]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch raises what its parts raise: RuntimeError, UnpicklingError, KeyError, EOFError
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        # PyTorch's own first line is an advice to load the file unsafely.
        told = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = (told[1] if told else str(error).strip().partition("\n")[0]) or type(error).__name__
        if foreign:
            reason = (
                f"it holds Python objects ({foreign[1]}) beside the weights, which can run any program when they are "
                "read"
            )
        raise CheckpointError(
            f"{path}: PyTorch cannot read this file, or not safely: {reason[:300]}. Get the file again, or save the "
            "state dict alone: torch.save(model.state_dict(), path)."
        ) from error


def _of_tensors(path: Path, tensors: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Contents:
    """Of PyTorch's tensors; what is not one is reported by its header."""

    def read(keys: Iterable[str]) -> Iterator[np.ndarray]:
        return (_array(tensors[key], f"{path}: {key}") for key in keys)

    return Contents({key: _tensor_header(value) for key, value in tensors.items()}, read, notes)


def _tensor_header(value: Any) -> Header:
    import torch

    if not isinstance(value, torch.Tensor):
        return (), f"{type(value).__name__.lstrip('_')}, no tensor"
    dtype = str(value.dtype).removeprefix("torch.")
    if value.is_nested:  # it has no shape
        return (), f"{dtype} (nested)"
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        dtype += " (sparse, quantised or without values)"
    return tuple(value.shape), dtype


def _array(tensor: Any, name: str) -> np.ndarray:
    import torch

    # By the class: the file tells a tensor's attributes, and one named `detach` would be called in the method's place.
    tensor = torch.Tensor.detach(tensor)
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except (RuntimeError, TypeError) as error:  # a view that is lazily negated, say
        raise CheckpointError(f"{name} cannot be read: {error}. Save model.state_dict() again.") from error
