"""The help of options as plain paragraphs: what stands below a field in the code, without its line ends and markup."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any


def describe(kind: type[Any], default: Any = None) -> None:
    """Give every field of a dataclass, and of those inside it, its help: tyro takes it from ``metadata["help"]``.

    tyro reads the docstrings below fields itself, but keeps their line ends and the double marks of code.

    Args:
        kind: The dataclass.
        default: An instance, whose fields say of what class nested settings are; None takes the fields' defaults.
    """
    said = _said(kind)
    for field in fields(kind):
        value = _initial(field) if default is None else getattr(default, field.name, None)
        if is_dataclass(value) and not isinstance(value, type):
            describe(type(value), value)
            said.setdefault(field.name, _plain((type(value).__doc__ or "").partition("\n\n")[0]))
        if field.name in said:
            field.metadata = MappingProxyType({**field.metadata, "help": said[field.name]})


def _said(kind: type[Any]) -> dict[str, str]:
    """Return the docstrings below the fields of a class and of those it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if not is_dataclass(each):
            continue
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        except OSError:  # made where there is no file, as in a notebook: its docstrings cannot be read
            continue
        for field, text in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = _plain(said)
    return found


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


def _initial(field: Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default
