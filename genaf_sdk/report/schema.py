"""The JSON Schema of a report, made from its types, their ranges and the descriptions of the fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from enum import StrEnum
from typing import Annotated, Any

from genaf_sdk.report.data import SCHEMA, Report
from genaf_sdk.report.reading import Length, Pattern, Rest, fields_of, mark_of
from genaf_sdk.settings import AtLeast, Between

ABOUT = (
    "What report.json holds. Accuracies, rates and intervals are shares in [0, 1], times are seconds, budgets are "
    'shares of the pixel range. The number under "schema" rises when a field changes its meaning or goes away. '
    "Fields may be added under the same number at the top level, under data and under model, and where readers may "
    "leave them out. The page, report.html, is made from this file and from perturbations/ alone."
)
WRITTEN = {
    "verdict": {
        "type": "string",
        "description": "The lowest accuracies in one sentence; failed checks come before it.",
    },
    "limits": {
        "type": "array",
        "description": "What the accuracies do not cover, one sentence each.",
        "items": {"type": "string"},
    },
}
"""What ``RobustnessReport`` says about the data, which stands beside them."""
SIMPLE: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    Any: {},
}


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``report.json``."""
    definitions: dict[str, Any] = {}
    body = _document(Report, definitions)
    first = {"schema": {"const": SCHEMA, "description": "Version of this schema."}, **WRITTEN}
    body["properties"] = first | body["properties"]
    body["required"] = [*first, *body["required"], *("curve", "checks", "notes", "seed", "versions")]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:genaf-sdk:report:{SCHEMA}",
        "title": f"Robustness report of genaf-sdk, schema {SCHEMA}",
        **body,
        "description": ABOUT,
        "$defs": dict(sorted(definitions.items())),
    }


def _document(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    described = descriptions(cls)
    properties: dict[str, Any] = {}
    required, others = [], getattr(cls, "open", False)
    for entry, hint, name in fields_of(cls):
        if mark_of(hint, Rest) is not None:
            others = _schema(typing.get_args(typing.get_args(hint)[0])[1], definitions)
            continue
        properties[name] = {**_schema(hint, definitions), "description": described.get(entry.name, "")}
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            required.append(name)
    for name, source in getattr(cls, "derived", {}).items():
        getter = inspect.getattr_static(cls, source).fget
        properties[name] = {
            **_schema(typing.get_type_hints(getter)["return"], definitions),
            "description": (inspect.getdoc(getter) or "").partition("\n\n")[0],
        }
        required.append(name)
    return {
        "type": "object",
        "description": " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split()),
        "properties": properties,
        "required": required,
        "additionalProperties": others,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _bounded(_schema(arguments[0], definitions), arguments[1:])
    if origin in (typing.Union, types.UnionType):
        kept = [_schema(argument, definitions) for argument in arguments if argument is not types.NoneType]
        return {"anyOf": [*kept, {"type": "null"}]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        items = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if hint.__name__ not in definitions:
            definitions[hint.__name__] = {}  # one that holds itself would not end
            definitions[hint.__name__] = _document(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"enum": list(map(str, hint))}
    return dict(SIMPLE[hint])


def _bounded(schema: dict[str, Any], marks: tuple[Any, ...]) -> dict[str, Any]:
    for mark in marks:
        if isinstance(mark, Between):
            schema |= {"minimum": mark.low, "maximum": mark.high}
        elif isinstance(mark, AtLeast):
            schema |= {"minimum": mark.low}
        elif isinstance(mark, Pattern):
            schema |= {"pattern": f"^{mark.text}$"}
        elif isinstance(mark, Length):
            low, high = ("minLength", "maxLength") if schema.get("type") == "string" else ("minItems", "maxItems")
            schema |= {low: mark.low} | ({} if mark.high is None else {high: mark.high})
    return schema


def descriptions(cls: type[Any]) -> dict[str, str]:
    """Return what the docstring of a dataclass says of each field under ``Args:``."""
    block = (inspect.getdoc(cls) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8,}.*)*)", block, re.MULTILINE):
        found[name] = " ".join(text.replace("``", "").split())
    return found
