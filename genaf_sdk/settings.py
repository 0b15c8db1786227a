"""Settings: frozen dataclasses whose fields are checked by their type hints, in Python as from JSON.

A hint is made of ``int``, ``float``, ``str``, ``bool``, ``Literal``, ``| None``, ``tuple[..., ...]``, ``dict``, other
settings, and ``Annotated`` with the bounds below. A ``bool`` is no number, a whole number is a ``float``, a list is a
tuple. Errors name the setting, the value, what was expected, and a value that works.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import numbers
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from genaf_sdk.errors import ConfigError, GenafError
from genaf_sdk.registry import unknown


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both of which it may reach."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Return whether ``value`` is within."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {_written(self.low)} to {_written(self.high)}"


@dataclass(frozen=True)
class AtLeast:
    """The least that a number may be."""

    low: float

    def holds(self, value: float) -> bool:
        """Return whether ``value`` is within."""
        return value >= self.low

    def __str__(self) -> str:
        return f"of at least {_written(self.low)}"


def _written(bound: float) -> str:
    """Return a bound as a reader can type it: a whole number with all its digits."""
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


SHOWN = 100
"""How much of an unknown name an error repeats."""
Share = Annotated[float, Between(0.0, 1.0)]
"""A part of a whole."""
Epsilon = Annotated[float, Between(1e-6, 1.0)]
"""An L_inf budget in units of the range of valid values, or a part of an area: ``8 / 255``. Never zero."""
LearningRate = Annotated[float, Between(1e-8, 10.0)]
Count = Annotated[int, AtLeast(1)]
Seed = Annotated[int, Between(0, 2**31 - 1)]


class Settings:
    """Base of settings. Subclasses are frozen dataclasses; ``check`` holds what concerns several fields."""

    error: ClassVar[type[GenafError]] = ConfigError

    def __post_init__(self) -> None:
        owner = type(self)
        for setting in _fields(owner):
            value = converted(
                _hints(owner)[setting.name],
                getattr(self, setting.name),
                f"{owner.__name__}.{setting.name}",
                error=self.error,
                setting=setting,
            )
            object.__setattr__(self, setting.name, value)
        self.check()

    def check(self) -> None:
        """Refuse values that cannot stand together.

        Raises:
            GenafError: They cannot; of the class ``error``.
        """

    def with_(self, **changes: Any) -> Self:
        """Return the same settings with some changed; a dictionary changes some of a group.

        ``config.with_(seed=1, method={"schedule": {"epochs": 2}})``

        Raises:
            GenafError: A setting is unknown, of another type or out of range.
        """
        _refuse_unknown(type(self), changes, f"{type(self).__name__}.", self.error)
        new = {
            name: value if not isinstance(value, dict) else self._changed_group(name, value)
            for name, value in changes.items()
        }
        return dataclasses.replace(self, **new)  # type: ignore[type-var]  # subclasses are dataclasses

    def _changed_group(self, name: str, changes: dict[str, Any]) -> Any:
        group = getattr(self, name)
        if not isinstance(group, Settings):
            return changes
        own_name = getattr(type(group), "name", None)
        if "name" in changes and changes["name"] != own_name:  # another kind altogether
            return changes
        return group.with_(**{key: value for key, value in changes.items() if key != "name" or own_name is None})

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain objects, ready for JSON; kinds of settings that have a name state it."""
        kind = getattr(type(self), "name", None)
        content = {} if kind is None else {"name": kind}
        return content | {setting.name: _plain(getattr(self, setting.name)) for setting in _fields(type(self))}

    @classmethod
    def from_dict(cls, content: Any, path: str = "") -> Self:
        """Read what ``to_dict`` wrote. Settings that are missing take their defaults.

        Args:
            content: A JSON object.
            path: What errors write before a setting's name, such as ``method.``.

        Raises:
            GenafError: A setting is unknown, of another type or out of range.
        """
        if not isinstance(content, dict):
            raise cls.error(f"{path.rstrip('.') or 'The settings'} is {content!r}.", expected="a JSON object")
        kind = cls.kind_of(content, path)
        own_name = getattr(kind, "name", None)
        given = {key: value for key, value in content.items() if key != "name" or own_name is None}
        _refuse_unknown(kind, given, path, cls.error)
        fields = {setting.name: setting for setting in _fields(kind)}
        values = {
            name: converted(
                _hints(kind)[name],
                _over_default(fields[name], value),
                f"{path}{name}",
                error=cls.error,
                setting=fields[name],
            )
            for name, value in given.items()
        }
        return kind(**values)

    @classmethod
    def kind_of(cls, content: dict[str, Any], path: str) -> type[Self]:
        """Return which class ``content`` are the settings of; the base of several kinds looks at their name.

        Args:
            content: A JSON object.
            path: What errors write before a setting's name.
        """
        del content, path
        return cls

    @classmethod
    def from_value(cls, value: Any, path: str) -> Self:
        """Return settings of this class from what was given in their place.

        Args:
            value: Settings, or a JSON object.
            path: What errors call it.

        Raises:
            GenafError: It is neither.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, dict):
            return cls.from_dict(value, f"{path}.")
        raise cls.error(f"{path} is {value!r}.", expected=f"{cls.__name__} or a JSON object")


def converted(
    hint: Any,
    value: Any,
    name: str,
    *,
    error: type[GenafError] = ConfigError,
    setting: dataclasses.Field[Any] | None = None,
) -> Any:
    """Return ``value`` as its type hint says, or refuse it.

    Args:
        hint: The type hint; the module says what it may be made of.
        value: What was given.
        name: Of the setting, for the error.
        error: What is raised.
        setting: The field whose default is named in the error as a value that works.

    Raises:
        GenafError: The value does not fit.
    """
    fits, result, expected = _fitted(hint, value, name)
    if fits:
        return result
    works = dataclasses.MISSING if setting is None else _default(setting)
    simple = works not in (dataclasses.MISSING, None) and not isinstance(works, Settings)
    remedy = f"use for example {shown(works)}, the default" if simple else ""
    raise error(f"{name} is {value!r}.", expected=expected, remedy=remedy)


def _fitted(hint: Any, value: Any, name: str) -> tuple[bool, Any, str]:
    """Return whether ``value`` fits, what it becomes, and what is expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True, value, ""
    if origin is Annotated:
        return _bounded(arguments, value, name)
    if origin is typing.Literal:
        known = any(value == choice and type(value) is type(choice) for choice in arguments)
        return known, value, f"one of {', '.join(map(repr, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, name)
    if origin is tuple:
        return _sequence(arguments[0], value, name)
    if origin is dict or hint is dict:
        return isinstance(value, dict), value, "a JSON object"
    if isinstance(hint, type) and issubclass(hint, Settings):
        return True, hint.from_value(value, name), ""
    return _simple(hint, value)


def _bounded(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[bool, Any, str]:
    fits, result, expected = _fitted(arguments[0], value, name)
    bounds = [bound for bound in arguments[1:] if isinstance(bound, (Between, AtLeast))]
    if bounds and result is not None:
        expected = " ".join([expected, *map(str, bounds)])
        fits = fits and all(bound.holds(result) for bound in bounds)
    return fits, result, expected


def _one_of(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[bool, Any, str]:
    if value is None and types.NoneType in arguments:
        return True, None, ""
    expectations = []
    for argument in arguments:
        if argument is types.NoneType:
            continue
        fits, result, expected = _fitted(argument, value, name)
        if fits:
            return True, result, ""
        expectations.append(expected)
    return False, value, " or ".join([*expectations, *(["None"] if types.NoneType in arguments else [])])


def _sequence(item: Any, value: Any, name: str) -> tuple[bool, Any, str]:
    _, _, expected = _fitted(item, object(), name) if not _is_settings(item) else (False, None, item.__name__)
    if not isinstance(value, (list, tuple)):
        return False, value, f"a list, each {expected}"
    found = [_fitted(item, entry, f"{name}[{index}]") for index, entry in enumerate(value)]
    return all(fits for fits, _, _ in found), tuple(result for _, result, _ in found), f"a list, each {expected}"


def _simple(hint: Any, value: Any) -> tuple[bool, Any, str]:
    if hint is bool:
        return isinstance(value, bool), value, "True or False"
    if hint is int:
        fits = not isinstance(value, bool) and isinstance(value, numbers.Integral)
        return fits, int(value) if fits else value, "a whole number"
    if hint is float:
        fits = not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
        return fits, float(value) if fits else value, "a number"
    if hint is str:
        return isinstance(value, str), value, "text"
    return isinstance(value, hint), value, f"a {getattr(hint, '__name__', hint)}"


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _refuse_unknown(owner: type[Any], given: dict[str, Any], path: str, error: type[GenafError]) -> None:
    known = [setting.name for setting in _fields(owner)]
    other = next((str(name)[:SHOWN] for name in given if name not in known), None)
    if other is not None:
        raise unknown(f"There is no setting {path}{other!r}.", other, known, error)


def _fields(owner: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(owner)


_HINTS: dict[type[Any], dict[str, Any]] = {}


def _hints(owner: type[Any]) -> dict[str, Any]:
    """Return the type hints of the fields alone: what stands beside them may name what only a type checker knows."""
    if owner not in _HINTS:
        fields = {setting.name for setting in _fields(owner)}
        found: dict[str, Any] = {}
        for base in reversed(owner.__mro__):
            own = {name: hint for name, hint in inspect.get_annotations(base).items() if name in fields}
            there = type("Hints", (), {"__annotations__": own, "__module__": base.__module__})
            found |= typing.get_type_hints(there, include_extras=True)
        _HINTS[owner] = found
    return _HINTS[owner]


def _default(setting: dataclasses.Field[Any]) -> Any:
    if setting.default_factory is not dataclasses.MISSING:
        return setting.default_factory()
    return setting.default


def _over_default(setting: dataclasses.Field[Any], value: Any) -> Any:
    """Return a group of settings with what it does not state as in the field's default."""
    default = _default(setting)
    return overlaid(default.to_dict(), value) if isinstance(default, Settings) and isinstance(value, dict) else value


def overlaid(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with what ``over`` states, group by group; a group of another name replaces the whole group."""
    if "name" in base and over.get("name", base["name"]) != base["name"]:
        return over
    both = dict(base)
    for name, value in over.items():
        nested = isinstance(value, dict) and isinstance(both.get(name), dict)
        both[name] = overlaid(both[name], value) if nested else value
    return both


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def shown(value: Any) -> str:
    """Write a setting as a reader would: budgets that are no short decimal as gray levels, ``8/255``."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    levels = round(value * 255) if isinstance(value, float) else 0
    is_budget = 0 < levels < 255 and value == levels / 255 and len(repr(value)) > len("0.12345")
    return f"{levels}/255" if is_budget else repr(value)
