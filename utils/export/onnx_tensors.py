"""The tensors that an ONNX file holds, read without the package onnx and without memory for their numbers.

ONNX Runtime does not tell whether weights lie in another file. The numbers below are those of the fields in
https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from utils.errors import PackagingError

# By message, the fields that hold messages with tensors somewhere in them.
_INSIDE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DIMS, _EXTERNAL_DATA, _DATA_LOCATION = 1, 13, 14  # of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def sizes(path: Path) -> list[int]:
    """How many numbers each tensor has.

    PackagingError for a file whose tensors are in another one, and for what is no ONNX file.
    """
    found = []
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in _tensors(data, "model", 0, len(data)):
                found.append(_size(data, start, end, path))
    except (IndexError, ValueError, RecursionError) as error:
        if isinstance(error, PackagingError):
            raise
        raise PackagingError(f"{path}: it is no whole ONNX file. Get the file again.") from error
    return found


def _tensors(data: mmap.mmap, message: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where in the file each tensor begins and ends."""
    for field, _, begin, stop in _fields(data, start, end):
        inner = _INSIDE[message].get(field)
        if inner == "tensor":
            yield begin, stop
        elif inner:
            yield from _tensors(data, inner, begin, stop)


def _size(data: mmap.mmap, start: int, end: int, path: Path) -> int:
    size = 1
    for field, value, begin, stop in _fields(data, start, end):
        if field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value):
            raise PackagingError(
                f"{path}: its weights are in another file beside it, which nothing vouches for. Get a file that holds "
                "all of its weights."
            )
        if field == _DIMS:
            while begin < stop:  # several in one field
                dim, begin = _varint(data, begin)
                size *= dim
            size *= 1 if value is None else value
    return size


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int | None, int, int]]:
    """Each field's number, its value if it is a number, and where its bytes begin and end if it has any."""
    while start < end:
        tag, start = _varint(data, start)
        kind, value, length = tag & 7, None, 0
        if kind == _VARINT:
            value, start = _varint(data, start)
        elif kind == _BYTES:
            length, start = _varint(data, start)
        elif kind in (_FIXED32, _FIXED64):
            start += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("a kind of field that ONNX does not have")
        if start + length > end:
            raise ValueError("cut short")
        yield tag >> 3, value, start, start + length
        start += length


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    """A number and where the next thing begins."""
    value = 0
    for index in range(10):
        byte = data[start + index]
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, start + index + 1
    raise ValueError("a number that is too long")
