"""What a checkpoint file holds, under its own keys, without executing anything that the file says.

The first bytes tell what a file is before any reader starts. PyTorch's files since 1.6 and NumPy's .npz are zip
archives; PyTorch's older ones begin with a pickled number, .safetensors files with the length of a JSON header, and
Flax's msgpack files with a map. Nothing is unpacked before its size is checked.
"""

from __future__ import annotations

import math
import os
import pickle
import re
import stat
import zipfile
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from utils.archives import ArchiveError, Refusal, check_crc, npy_header, open_zip
from utils.errors import CheckpointError
from utils.families.base import Header, Headers
from utils.files import user_path

_ZIP_MAGIC = b"PK\x03\x04"
# What torch.save wrote first before version 1.6: MAGIC_NUMBER of torch/serialization.py, pickled.
_TORCH_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_SAFETENSORS_HEADER = b"{"  # after the header's length in 8 bytes: https://github.com/huggingface/safetensors#format
_WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")
_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_FLAX_MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)  # how msgpack begins a map: https://github.com/msgpack/msgpack
MAX_ENTRIES = 20_000  # of one set; the largest model here has 470
_MAX_SETS, _MAX_DEPTH = 1_000, 8  # of mappings in a PyTorch file
# What trainers leave beside the weights (timm's train.py: `args`, and `metric`, a NumPy scalar). Of `args` the state is
# kept, to be read as data; the rest is not needed, so it is not made: these names stand for `_Inert` while it is read.
_INERT = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"pathlib.{local}{system}Path" for local in ("", "_local.") for system in ("Posix", "Windows", "PurePosix")),
)


@dataclass(frozen=True)
class Contents:
    """Headers at once, arrays on demand.

    sets: the headers of each set of tensors, by its name: the path of a mapping in a PyTorch file, "" where a file has
    one set. read: the arrays of some keys of a set, one after the other, of the dtypes in the headers, but bfloat16 as
    float32; raises CheckpointError. ordered: whether entries stand in the order in which the model's modules were
    registered. args: what a trainer left of its own parameters.
    """

    sets: Mapping[str, Headers]
    read: Callable[[str, Iterable[str]], Iterator[np.ndarray]]
    ordered: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)


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
    if start.startswith(_TORCH_LEGACY_MAGIC) or start[8:9] == _SAFETENSORS_HEADER or start[0] in _FLAX_MAPS:
        return None
    if start.lstrip().lower().startswith(_WEB_PAGES):
        return "is a web page (a login or error page, perhaps)"
    if start.startswith(_PICKLES):
        return "is a bare Python pickle, which could run any program when read, and was not read"
    return f"is neither a PyTorch, .safetensors, .npz nor Flax file: it starts with {start[:8]!r}"


def open_contents(path: Path) -> Contents:
    """Opens a regular file of any kind. CheckpointError for what is no checkpoint, damaged or unsafe."""
    wrong = why_not_checkpoint(path)
    if wrong:
        raise CheckpointError(f"{path}: expected a checkpoint, but this {wrong}. Get the file again.")
    with path.open("rb") as file:
        start = file.read(len(_TORCH_LEGACY_MAGIC))
    if start == _TORCH_LEGACY_MAGIC:
        _check_torch_legacy(path)
        return _open_torch(path, zipped=False)
    if not start.startswith(_ZIP_MAGIC):
        return _open_safetensors(path) if start[8:9] == _SAFETENSORS_HEADER else _open_msgpack(path)
    with _open_archive(path) as archive:
        names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names):
            _check_torch_archive(path, archive)
            return _open_torch(path, zipped=True)
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

    def read(_: str, keys: Iterable[str]) -> Iterator[np.ndarray]:
        with _open_archive(path) as archive:
            for key in keys:
                with archive.open(members[key]) as member:
                    # No more is unpacked than its header says, which was compared with the variant.
                    array = np.lib.format.read_array(member, allow_pickle=False)
                    if member.tell() != members[key].file_size:
                        raise ArchiveError(f"{key} is longer than its header says")
                    member.read(1)  # at the end, where zipfile compares the CRC
                yield _as_float(array)

    return Contents({"": headers}, read)


def _npy_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    with archive.open(member) as file:
        shape, dtype = npy_header(file, member.filename)
        declared = math.prod(shape) * dtype.itemsize + file.tell()
    # A member that packs better than deflate can is one whose size is not true.
    if declared != member.file_size or declared > _DEFLATE * (member.compress_size + 1):
        raise ArchiveError(
            f"{member.filename} declares {declared:,} bytes, and {member.compress_size:,} packed ones cannot be that"
            if declared == member.file_size
            else f"{member.filename} is {'longer' if declared < member.file_size else 'shorter'} than its header says"
        )
    return shape, "bfloat16" if dtype == _BFLOAT16 else dtype.name if dtype.isnative else str(dtype)


_DEFLATE = 1032  # times: https://zlib.net/zlib_tech.html
_BFLOAT16 = np.dtype("V2")  # as NumPy saves JAX's: it knows no such type


def _as_float(array: np.ndarray) -> np.ndarray:
    """bfloat16 as float32, of which it is the upper half; others as they are."""
    if array.dtype != _BFLOAT16:
        return array
    return (np.ascontiguousarray(array).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _open_safetensors(path: Path) -> Contents:
    """The library maps the file into memory, and refuses a header that is not true of the bytes after it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            keys = file.keys()
            if len(keys) > MAX_ENTRIES:
                raise ValueError(f"it has {len(keys):,} entries, more than {MAX_ENTRIES:,}")
            tensors = {key: file.get_tensor(key) for key in keys}
            return _of_tensors(path, {"": tensors})
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


class _Told(_Inert):
    """Keeps the state that it is given, as data."""

    __slots__ = ("state",)

    def __setstate__(self, state: object) -> None:
        self.state = state


def _open_msgpack(path: Path) -> Contents:
    """What flax.serialization.to_bytes leaves, as flax.training.checkpoints does: a tree of arrays, flat."""
    import msgpack

    try:
        # msgpack asks for an array's memory by what its header claims; a shape has a few numbers, nothing else is one.
        limits = {"max_array_len": 64, "max_map_len": MAX_ENTRIES}
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_flax_array, raw=False, strict_map_key=False, **limits)
        arrays = dict(_leaves(tree))
    except (ValueError, TypeError, KeyError, RecursionError, msgpack.UnpackException) as error:
        raise CheckpointError(
            f"{path}: expected Flax's msgpack, and it cannot be read as such: {str(error)[:200]}. Get the file again."
        ) from error
    headers = {
        key: (array.shape, "bfloat16" if array.dtype == _BFLOAT16 else array.dtype.name)
        for key, array in arrays.items()
    }
    return Contents({"": headers}, lambda _, keys: (_as_float(arrays[key]) for key in keys))


def _flax_array(code: int, data: bytes) -> np.ndarray:
    """Flax's extension types: 1 is an array, 3 a scalar, both as shape, name of the dtype and bytes."""
    import msgpack

    if code not in (1, 3):
        raise ValueError(f"extension type {code} is no array")
    shape, name, buffer = msgpack.unpackb(data, raw=False)
    if not (isinstance(shape, list) and all(type(each) is int and each >= 0 for each in shape) and type(name) is str):
        raise ValueError(f"{name!r} of shape {shape!r} is no array")
    dtype = _BFLOAT16 if name == "bfloat16" else np.dtype(name)
    if dtype.kind not in "fiubV" or (dtype.kind == "V" and dtype != _BFLOAT16):
        raise ValueError(f"{dtype} is no type of numbers")
    return np.frombuffer(buffer, dtype).reshape(shape)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, np.ndarray):
        yield path, tree
    elif isinstance(tree, dict) and "__msgpack_chunked_array__" in tree:  # Flax cuts what is beyond 1 GiB
        shape, chunks = ([tree[part][str(i)] for i in range(len(tree[part]))] for part in ("shape", "chunks"))
        yield path, np.concatenate([np.ravel(chunk) for chunk in chunks]).reshape(shape)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}/{key}" if path else str(key))


def _open_torch(path: Path, zipped: bool) -> Contents:
    """Each mapping that holds tensors is a set."""
    content = _load_torch(path, zipped)
    sets = dict(_mappings(content))
    if not sets:
        raise CheckpointError(
            f"{path}: expected a state dict (tensors by name), alone or in another mapping, found "
            f"{type(content).__name__}. Save model.state_dict()."
        )
    args = content.get("args") if isinstance(content, dict) else None
    told = getattr(args, "state", None) if isinstance(args, _Told) else args
    return _of_tensors(path, sets, told if isinstance(told, dict) else {})


def _mappings(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those that hold tensors, by their path; not by a mapping's methods, which its state may hide."""
    import torch

    waiting, seen = deque([("", content)]), set()
    while waiting and len(seen) < _MAX_SETS:
        path, mapping = waiting.popleft()
        if not isinstance(mapping, dict) or id(mapping) in seen or path.count("/") > _MAX_DEPTH:
            continue
        seen.add(id(mapping))
        entries = {key: value for key, value in dict.items(mapping) if isinstance(key, str)}
        if any(isinstance(value, torch.Tensor) for value in entries.values()):
            yield path, {key: value for key, value in entries.items() if not isinstance(value, dict)}
        inner = [(key, value) for key, value in entries.items() if isinstance(value, dict)]
        waiting += [(f"{path}/{key}" if path else key, value) for key, value in inner]


def _check_torch_archive(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    # torch.save never compresses, and mapping a compressed file would take its packed bytes for weights.
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(
            f"{path}: PyTorch files are not compressed, but this one is: a TorchScript module, perhaps. Get the "
            "original, or save the state dict alone: torch.save(model.state_dict(), path)."
        )
    declared, size = sum(member.file_size for member in members), path.stat().st_size
    if declared > size:
        raise CheckpointError(
            f"{path}: unpacked, it would take {declared:,} bytes, and the file has {size:,}: its members overlap. It "
            "was not read."
        )
    check_crc(archive)  # PyTorch does not look
    for member in members:
        if member.filename.endswith("/data.pkl") and b"bytearray" in archive.read(member):
            raise CheckpointError(f"{path}: {_BYTES}")


# PyTorch's unpickler makes one of any length that a file names.
_BYTES = "it holds a bytearray beside the weights. Save the state dict alone: torch.save(model.state_dict(), path)."


class _Looker(pickle._Unpickler):
    """Notes what PyTorch would make of an old file, and makes none of it.

    Python's own class: that in C asks for memory by what a file says.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> type:
        if name == "bytearray":
            raise pickle.UnpicklingError(_BYTES)
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, pid: tuple) -> None:
        _, _, key, _, numel, *_ = pid
        self.storages[str(key)] = int(numel)


def _check_torch_legacy(path: Path) -> None:
    """CheckpointError for storages that are not in the file, which PyTorch leaves as memory happens to be."""
    try:
        with path.open("rb") as file:
            lookers = [_Looker(file) for _ in range(5)]  # magic, protocol, system, content, keys of the storages
            *_, keys = [looker.load() for looker in lookers]
        storages = lookers[3].storages
        if storages.keys() - set(keys) or sum(storages.values()) > path.stat().st_size:
            raise ValueError(f"{len(storages)} storages are named, and not all of them are there")
    except Exception as error:  # a pickle's, which may be of anything
        raise CheckpointError(
            f"{path}: PyTorch's old format is damaged: {str(error)[:200] or type(error).__name__}. Get the file again."
        ) from error


def _load_torch(path: Path, zipped: bool) -> Any:
    import torch

    try:
        # Mapping keeps the weights out of memory until they are used; only the zip format can be mapped.
        known = [(_Told, "argparse.Namespace"), *((_Inert, name) for name in _INERT)]
        with torch.serialization.safe_globals(known):
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


def _of_tensors(path: Path, sets: Mapping[str, Mapping[str, Any]], args: Mapping[str, Any] | None = None) -> Contents:
    """Of PyTorch's tensors; what is not one is reported by its header. args: None where the order means nothing."""

    def read(name: str, keys: Iterable[str]) -> Iterator[np.ndarray]:
        return (_array(sets[name][key], f"{path}: {key}") for key in keys)

    headers = {name: {key: _tensor_header(value) for key, value in each.items()} for name, each in sets.items()}
    return Contents(headers, read, args is not None, args or {})


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
