"""Attacks by name: those of this package, those of other packages, and their settings as text."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Annotated, Any

from genaf_sdk.attacks.base import Attack
from genaf_sdk.errors import AttackError
from genaf_sdk.registry import Registry, unknown
from genaf_sdk.settings import converted

ATTACKS: Registry[type[Attack]] = Registry("attack", "genaf_sdk.attacks", AttackError)
register = ATTACKS.register


def known_attacks() -> dict[str, type[Attack]]:
    """Return every registered attack by name, those of other packages' entry points included."""
    return ATTACKS.items()


def load_attack(attack: str | Attack) -> Attack:
    """Return an attack by name, ``"uapgd"``, or by name and settings, ``"uapgd:steps=50,budget=4/255"``.

    An attack passes as it is.

    Raises:
        AttackError: The name or a setting is unknown (the nearest ones are listed), given twice, or has a value that
            its type does not allow.
    """
    if isinstance(attack, Attack):
        return attack
    kind, settings = parsed(attack)
    return kind(**settings)


def parsed(text: str) -> tuple[type[Attack], dict[str, Any]]:
    """Return the attack that ``text`` names and the settings that it states, and no others.

    Raises:
        AttackError: As ``load_attack``.
    """
    name, _, stated = text.partition(":")
    kind = ATTACKS[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    settings: dict[str, Any] = {}
    for pair in stated.split(",") if stated else ():
        given, _, value = pair.partition("=")
        key = kind.renamed.get(given, given)
        if key not in fields:
            raise unknown(f"{name!r} has no setting {given!r}.", given, fields, AttackError)
        if key in settings:
            raise AttackError(f"{text!r} states {key!r} twice.", expected="every setting at most once")
        settings[key] = converted(
            hints[key], _read(hints[key], value), f"{key} of {name!r}", error=AttackError, setting=fields[key]
        )
    return kind, settings


def _read(hint: Any, text: str) -> object:
    """Return what ``text`` means for a setting of this type; the text itself where it means nothing.

    Numbers may be fractions such as 8/255.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _read(arguments[0], text)
    if origin in (typing.Union, types.UnionType):
        choices = [argument for argument in arguments if argument is not types.NoneType]
        if text == "None" and len(choices) < len(arguments):
            return None
        return next((value for choice in choices if (value := _read(choice, text)) is not text), text)
    if hint is bool:
        return {"True": True, "False": False}.get(text, text)
    if hint in (int, float):
        return _number(text, whole=hint is int)
    return text


def _number(text: str, *, whole: bool) -> float | str:
    numerator, _, denominator = text.partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return text
    if whole:
        return int(value) if value.is_integer() else text
    return value
