"""Checks JSON against a TypedDict or a dataclass, so that code behind the check may trust every field's type.

A stranger may have written the JSON. Whatever does not fit is a PackagingError that names the field by its path, such
as `parity.rows[3].relative`. Fields that a type does not know are kept: a newer version may have written them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import reprlib
from collections.abc import Callable
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NotRequired,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from utils.errors import PackagingError

_MAX_DEPTH = 40  # of lists and objects in one another; a manifest's go nine deep
_JSON_WORDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a whole number"}
_MAX_INT = 2**63


class Must(NamedTuple):
    """What a value must fulfil besides its type: `Annotated[int, Must(lambda value: value > 0, "a count above 0")]`."""

    fits: Callable[[Any], object]
    words: str


Count = Annotated[int, Must(lambda value: value > 0, "a count above 0")]
Text = Annotated[str, Must(str.strip, "text that is not empty")]


def check(value: Any, kind: Any, where: str, path: str = "") -> list[str]:
    """The paths of fields that `kind` does not know; PackagingError for what does not fit it.

    Args:
        value: what `json` made of a file.
        kind: a TypedDict, dataclass, `list[…]`, `dict[str, …]`, `tuple[…]` of fixed length, `… | None`, `Literal`,
            `Annotated` with `Must`, str, int, float, bool, or Any.
        where: the file, for the message.
        path: of the field within it.

    Returns:
        The paths, in the order of the file.

    Raises:
        PackagingError: with `where` and the path of the first field that does not fit.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        unknown = check(value, arguments[0], where, path)
        for must in arguments[1:]:
            if not must.fits(value):
                raise misfit(where, path, value, must.words)
        return unknown
    if origin in (Union, UnionType):  # Annotated[…] | None is the former
        (inner,) = (each for each in arguments if each is not NoneType)
        return [] if value is None else check(value, inner, where, path)
    if origin is Literal:
        if not (isinstance(value, str) and value in arguments):
            raise misfit(where, path, value, f"one of {', '.join(arguments)}")
        return []
    if kind is Any:
        _check_json(value, where, path)
        return []
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _check_fields(value, kind, where, path)
    if origin in (list, tuple):
        _check_scalar(value, list, where, path)
        if origin is tuple and len(value) != len(arguments):
            raise misfit(where, path, value, f"a list of {len(arguments)}")
        kinds = arguments if origin is tuple else arguments * len(value)
        return [
            field
            for i, (item, each) in enumerate(zip(value, kinds, strict=True))
            for field in check(item, each, where, f"{path}[{i}]")
        ]
    if origin is dict:
        _check_scalar(value, dict, where, path)
        return [
            field for key, item in value.items() for field in check(item, arguments[1], where, _at(path, key, where))
        ]
    _check_scalar(value, kind, where, path)
    return []


def _check_fields(value: Any, kind: type, where: str, path: str) -> list[str]:
    _check_scalar(value, dict, where, path)
    fields, unknown = _fields(kind), []
    for name, (hint, required) in fields.items():
        if name in value:
            unknown += check(value[name], hint, where, _at(path, name, where))
        elif required:
            raise PackagingError(f"{where}: {_at(path, name, where)} is missing.")
    for name in value:
        if name not in fields:
            unknown.append(_at(path, name, where))
            _check_json(value[name], where, unknown[-1])
    return unknown


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether it must be there: one of a dataclass may be missing where it has a default."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
        return {
            name: (get_args(hint)[0] if name in optional else hint, name not in optional)
            for name, hint in hints.items()
        }
    return {each.name: (hints[each.name], each.default is dataclasses.MISSING) for each in dataclasses.fields(kind)}


def _check_scalar(value: Any, kind: type, where: str, path: str) -> None:
    """A value of one type. True is no number, NaN is none either, and a text must be one that a file can hold."""
    if kind is float:
        if not (isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)):
            raise misfit(where, path, value, "a finite number")
    elif type(value) is not kind or (kind is int and abs(value) >= _MAX_INT) or (kind is str and not _writable(value)):
        raise misfit(where, path, value, _JSON_WORDS[kind])


def _check_json(value: Any, where: str, path: str, depth: int = 0) -> None:
    """Any JSON, as far as it can be compared, shown and written again."""
    if depth > _MAX_DEPTH:
        raise misfit(where, path, value, f"at most {_MAX_DEPTH} lists and objects in one another")
    if type(value) is dict:
        for key, item in value.items():
            _check_json(item, where, _at(path, key, where), depth + 1)
    elif type(value) is list:
        for i, item in enumerate(value):
            _check_json(item, where, f"{path}[{i}]", depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_scalar(value, float, where, path)
    elif value is not None and not isinstance(value, bool):
        _check_scalar(value, str, where, path)


def _at(path: str, key: Any, where: str) -> str:
    _check_scalar(key, str, where, path)
    name = key if key.isprintable() and len(key) < 80 else reprlib.repr(key)
    return f"{path}.{name}" if path else name


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _writable(text: str) -> bool:
    """Whether UTF-8 can hold it: JSON can also say half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def misfit(where: str, path: str, value: Any, words: str) -> PackagingError:
    """The error of a field that is not what it should be."""
    try:
        found = reprlib.repr(value)  # short, and not deep
    except ValueError:  # Python does not print whole numbers of thousands of digits
        found = f"a number of {value.bit_length():,} bits" if isinstance(value, int) else "not to be shown"
    return PackagingError(f"{where}: {path or 'the whole'} is {found}. Expected {words}.")
