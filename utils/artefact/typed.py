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


class Must(NamedTuple):
    """What a value must fulfil besides its type: `Annotated[int, Must(lambda value: value > 0, "a count above 0")]`."""

    fits: Callable[[Any], object]
    words: str


Count = Annotated[int, Must(lambda value: value > 0, "a count above 0")]
Text = Annotated[str, Must(str.strip, "text that is not empty")]


def check(value: Any, kind: Any, where: str, path: str = "") -> list[str]:
    """Checks that a value is of a type, and finds the fields that the type does not know.

    Args:
        value: What `json` made of a file.
        kind: A TypedDict, dataclass, `list[…]`, `dict[str, …]`, `tuple[…]` of fixed length, `… | None`, `Literal`,
            `Annotated` with `Must`, str, int, float, bool, or Any.
        where: The file, for the message.
        path: The field's path within the file.

    Returns:
        The paths of unknown fields, in the order of the file.

    Raises:
        PackagingError: With `where` and the path of the first field that does not fit.
    """
    _check_json(value, where, path)
    return _check_type(value, kind, where, path)


def _check_json(value: Any, where: str, path: str, depth: int = 0) -> None:
    """Any JSON that can be compared, shown and written again: JSON can also say NaN, and half a character."""
    if depth > _MAX_DEPTH:
        raise misfit(where, path, value, f"at most {_MAX_DEPTH} lists and objects in one another")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_json(key, where, path)
            _check_json(item, where, _at(path, key), depth + 1)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_json(item, where, f"{path}[{i}]", depth + 1)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise misfit(where, path, value, "text") from None
    elif isinstance(value, int | float):
        if not abs(value) < (2**63 if isinstance(value, int) else math.inf):
            raise misfit(where, path, value, "a finite number")
    elif value is not None:
        raise misfit(where, path, value, "JSON")


def _check_type(value: Any, kind: Any, where: str, path: str) -> list[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return []
    if origin is Annotated:
        unknown = _check_type(value, arguments[0], where, path)
        for must in arguments[1:]:
            if not must.fits(value):
                raise misfit(where, path, value, must.words)
        return unknown
    if origin in (Union, UnionType):  # Annotated[…] | None is the former
        (inner,) = (each for each in arguments if each is not NoneType)
        return [] if value is None else _check_type(value, inner, where, path)
    if origin is Literal:
        if not (isinstance(value, str) and value in arguments):
            raise misfit(where, path, value, f"one of {', '.join(arguments)}")
        return []
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _check_fields(value, kind, where, path)
    if origin is dict:
        _check_class(value, dict, where, path)
        items = [(_at(path, key), item, arguments[1]) for key, item in value.items()]
    elif origin in (list, tuple):
        _check_class(value, list, where, path)
        if origin is tuple and len(value) != len(arguments):
            raise misfit(where, path, value, f"a list of {len(arguments)}")
        kinds = arguments if origin is tuple else arguments * len(value)
        items = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(value, kinds, strict=True))]
    else:
        _check_class(value, kind, where, path)
        items = []
    return [field for inner, item, of in items for field in _check_type(item, of, where, inner)]


def _check_fields(value: Any, kind: type, where: str, path: str) -> list[str]:
    _check_class(value, dict, where, path)
    fields, unknown = _fields(kind), []
    for name, (hint, required) in fields.items():
        if name in value:
            unknown += _check_type(value[name], hint, where, _at(path, name))
        elif required:
            raise PackagingError(f"{where}: {_at(path, name)} is missing.")
    return unknown + [_at(path, name) for name in value if name not in fields]


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether it must be there: one of a dataclass may be missing if it has a default."""
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        return {each.name: (hints[each.name], each.default is dataclasses.MISSING) for each in dataclasses.fields(kind)}
    return {
        name: (get_args(hint)[0], False) if get_origin(hint) is NotRequired else (hint, True)
        for name, hint in hints.items()
    }


def _check_class(value: Any, kind: type, where: str, path: str) -> None:
    if kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise misfit(where, path, value, "a finite number")
    elif type(value) is not kind:
        raise misfit(where, path, value, _JSON_WORDS[kind])


def _at(path: str, key: str) -> str:
    name = key if key.isprintable() and len(key) < 80 else reprlib.repr(key)
    return f"{path}.{name}" if path else name


def misfit(where: str, path: str, value: Any, words: str) -> PackagingError:
    """The error of a field that is not what it should be."""
    try:
        found = reprlib.repr(value)  # short, and not deep
    except ValueError:  # Python does not print whole numbers of thousands of digits
        found = "a number of thousands of digits"
    return PackagingError(f"{where}: {path or 'the whole'} is {found}. Expected {words}.")
