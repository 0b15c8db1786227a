"""Typed documents: dataclasses from plain objects and back, so that damage is named where it is.

A field's hint is made of ``int``, ``float``, ``str``, ``bool``, ``Literal``, ``StrEnum``, ``| None``, ``list``,
``dict``,
``tuple``, other dataclasses, ``Any``, and ``Annotated`` with the bounds of ``settings`` and the marks below. A class
may state ``derived``: names that are written beside the fields, follow from them, and are not read.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from genaf_sdk.errors import OutputError
from genaf_sdk.settings import AtLeast, Between, converted

Document = TypeVar("Document")

MOST = 2**53
"""The largest whole number that every reader of JSON takes as it is."""


@dataclass(frozen=True)
class Spelled:
    """A field's name in the document, where the code has a better one."""

    name: str


@dataclass(frozen=True)
class Rest:
    """A field (a ``dict``) that takes every name which no other field has."""


@dataclass(frozen=True)
class Length:
    """How many items a list or text may have."""

    low: int
    high: int | None = None


@dataclass(frozen=True)
class Pattern:
    """What a text has to look like, as a regular expression that matches the whole of it."""

    text: str


Number = Annotated[int, Between(0, MOST)]
"""A count that may be nothing."""
Positive = Annotated[int, Between(1, MOST)]
Amount = Annotated[float, AtLeast(0.0)]
"""Seconds, joules: not negative."""


def read(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as its type hint says.

    Args:
        hint: The type hint.
        value: Plain objects, as JSON gives them.
        where: Path of the value in its document, for the error.

    Raises:
        OutputError: It does not fit; the error says what is wrong, and where.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return _marked(hint, arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else read(next(a for a in arguments if a is not types.NoneType), value, where)
    if origin in (list, tuple):
        return _sequence(origin, arguments, value, where)
    if origin is dict:
        _require(isinstance(value, dict), value, where, "an object")
        return {name: read(arguments[1], entry, f"{where}.{name:.100}") for name, entry in value.items()}
    if dataclasses.is_dataclass(hint):
        return read_document(typing.cast("type[Any]", hint), value, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        _require(isinstance(value, str) and value in list(hint), value, where, f"one of {', '.join(hint)}")
        return hint(value)
    return _plain(hint, value, where)


def read_document(cls: type[Document], content: Any, where: str = "") -> Document:
    """Return a dataclass of what ``plain`` gave.

    Raises:
        OutputError: A field is missing, unknown, or of another type or range.
    """
    _require(isinstance(content, dict), content, where, "an object")
    prefix, rest = (f"{where}." if where else ""), dict(content)
    for name in ("$schema", *getattr(cls, "derived", {})):
        rest.pop(name, None)
    values: dict[str, Any] = {}
    remaining = None
    for entry, hint, name in fields_of(cls):
        if mark_of(hint, Rest) is not None:
            remaining = (entry.name, hint)
        elif name in rest:
            values[entry.name] = read(hint, rest.pop(name), f"{prefix}{name}")
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise OutputError(f"{where or 'The document'} lacks {name!r}.", expected="a document of this package")
    if remaining is not None:
        values[remaining[0]] = read(remaining[1], rest, where)
    elif not getattr(cls, "open", False):
        _require(not rest, next(iter(rest), ""), f"a field of {where}", "none but those of the schema")
    try:
        return cls(**values)
    except OutputError as error:
        raise OutputError(f"{where or 'The document'}: {error.problem}", expected=error.expected) from error


def plain(value: Any) -> Any:
    """Return plain objects, ready for JSON; fields that are None and need not be there are left out."""
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    content: dict[str, Any] = {}
    for entry, hint, name in fields_of(type(value)):
        found = getattr(value, entry.name)
        if mark_of(hint, Rest) is not None:
            content |= plain(found)
        elif found is not None or entry.default is dataclasses.MISSING:
            content[name] = plain(found)
    return content | {name: plain(getattr(value, source)) for name, source in getattr(value, "derived", {}).items()}


Fields = tuple[tuple[dataclasses.Field[Any], Any, str], ...]
_FIELDS: dict[type[Any], Fields] = {}


def fields_of(cls: type[Any]) -> Fields:
    """Return every field that is written: the field, its hint with the marks, its name in the document."""
    if cls in _FIELDS:
        return _FIELDS[cls]
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for entry in dataclasses.fields(cls):
        if entry.metadata.get("written", True):
            spelled = mark_of(hints[entry.name], Spelled)
            found.append((entry, hints[entry.name], spelled.name if spelled else entry.name))
    _FIELDS[cls] = tuple(found)
    return _FIELDS[cls]


Mark = TypeVar("Mark")


def mark_of(hint: Any, kind: type[Mark]) -> Mark | None:
    """Return the mark of that kind in a hint, or None."""
    marks = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def _marked(hint: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    bounded = any(isinstance(mark, (Between, AtLeast)) for mark in arguments[1:])
    found = _plain(hint, value, where) if bounded else read(arguments[0], value, where)
    length, pattern = mark_of(hint, Length), mark_of(hint, Pattern)
    if length is not None and found is not None:
        high = length.high if length.high is not None else MOST
        _require(length.low <= len(found) <= high, value, where, f"{length.low} to {high} items")
    if pattern is not None and found is not None:
        _require(re.fullmatch(pattern.text, found) is not None, value, where, f"text like {pattern.text}")
    return found


def _sequence(origin: type[Any], arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    _require(isinstance(value, (list, tuple)), value, where, "a list")
    if origin is list or arguments[-1] is Ellipsis:
        return origin(read(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    _require(len(value) == len(arguments), value, where, f"a list of {len(arguments)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(read(hint, item, f"{where}[{index}]") for index, (hint, item) in enumerate(pairs))


def _plain(hint: Any, value: Any, where: str) -> Any:
    try:
        return converted(hint, value, where, error=OutputError)
    except OverflowError:
        _require(False, value, where, f"a number of at most {MOST}")
    except OutputError as error:
        _require(False, value, where, error.expected)


def _require(fits: bool, value: object, where: str, expected: str) -> None:
    if not fits:
        shown = f"a whole number of {value.bit_length()} bits" if type(value) is int and abs(value) > MOST else ""
        raise OutputError(f"{where or 'The document'} is {shown or f'{value!r:.100}'}.", expected=expected)
