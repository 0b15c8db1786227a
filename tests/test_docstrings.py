"""Every public name says what goes in, what comes out, in which shapes, and what is raised."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import genaf_sdk
from genaf_sdk import errors
from genaf_sdk.attacks import known_attacks
from genaf_sdk.attacks.base import Attack
from genaf_sdk.methods import Method
from genaf_sdk.methods.against import Against
from genaf_sdk.models.storage import StoredConfig
from genaf_sdk.settings import Settings

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
FAMILY = {name for name in vars(errors) if name.endswith("Error")}
SHAPE = re.compile(r"\((?:[A-Z0-9][A-Za-z0-9']*(?:, )?|\.\.\., )+\)|one number|\bshape")


@cache
def documented() -> dict[str, Any]:
    """Public names, and those that the reference pages document, by their path."""
    found = {f"genaf_sdk.{name}": getattr(genaf_sdk, name) for name in genaf_sdk.__all__ if name != "__version__"}
    for page in REFERENCE.glob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE):
            module, _, name = path.rpartition(".")
            try:
                found[path] = getattr(importlib.import_module(module), name)
            except ImportError:
                found[path] = importlib.import_module(path)
    return {path: value for path, value in found.items() if not inspect.ismodule(value)}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the documented functions, and the public methods and properties of the documented classes."""
    seen = set()
    for path, value in documented().items():
        members = {"": value}
        if inspect.isclass(value):
            members = {f".{name}": member for name, member in vars(value).items() if not name.startswith("_")}
        for name, member in members.items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if inspect.isfunction(function) and function not in seen:
                seen.add(function)
                yield path + name, function


FUNCTIONS = dict(functions())


def explained(path: str) -> str:
    """What is said of a function: by itself, and for a method by those that it overrides."""
    owner, _, name = path.rpartition(".")
    kinds = inspect.getmro(documented()[owner]) if inspect.isclass(documented().get(owner)) else ()
    overridden = [inspect.getdoc(vars(kind)[name]) or "" for kind in kinds if name in vars(kind)]
    return "\n".join([inspect.getdoc(FUNCTIONS[path]) or "", *overridden])


@pytest.mark.parametrize("path", documented())
def test_a_name_is_described_in_a_sentence(path: str) -> None:
    first = (inspect.getdoc(documented()[path]) or "").partition("\n\n")[0]
    assert re.match(r"[A-Z\"`*].*[.:]$", " ".join(first.split())), first


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_argument_is_explained(path: str) -> None:
    assert inspect.getdoc(FUNCTIONS[path]), "no docstring"
    text = explained(path)
    names = [name for name in inspect.signature(FUNCTIONS[path]).parameters if name not in ("self", "cls")]
    missing = [name for name in names if not re.search(rf"\b{name}\b", text)]
    assert len(names) == 1 or not missing, missing  # of a single argument the first sentence tells


@pytest.mark.parametrize("path", FUNCTIONS)
def test_tensors_have_their_shapes_stated(path: str) -> None:
    annotations = inspect.get_annotations(FUNCTIONS[path])
    if any(re.search(r"\bTensor\b", str(annotation)) for annotation in annotations.values()):
        assert SHAPE.search(inspect.getdoc(FUNCTIONS[path]) or ""), "takes or gives tensors of unstated shape"


@pytest.mark.parametrize("path", FUNCTIONS)
def test_errors_that_are_raised_on_purpose_are_announced(path: str) -> None:
    tree = ast.parse(textwrap.dedent(inspect.getsource(FUNCTIONS[path])))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    raised = {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    announced = (inspect.getdoc(FUNCTIONS[path]) or "").partition("Raises:")[2]
    missing = [name for name in raised & FAMILY if name not in announced and "GenafError" not in announced]
    assert not missing


def test_every_field_of_a_documented_dataclass_is_explained() -> None:
    missing = []
    for path, value in documented().items():
        if inspect.isclass(value) and "Args:" in (inspect.getdoc(value) or ""):
            text = inspect.getdoc(value) or ""
            names = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
            missing += [f"{path}.{name}" for name in names if not re.search(rf"^\s+{name}:", text, re.MULTILINE)]
    assert not missing


def kinds_of(kind: type[Settings]) -> Iterator[type[Settings]]:
    """Yield the classes of settings of the package below one, but for attacks, which have a page of their own."""
    for below in kind.__subclasses__():
        if below.__module__.startswith("genaf_sdk.") and below is not Attack:
            yield below
            yield from kinds_of(below)


def test_every_setting_is_on_the_page_of_settings() -> None:
    listed: dict[str, list[str]] = {}
    for block in (REFERENCE / "settings.md").read_text("utf-8").split("\n::: ")[1:]:
        members = re.search(r"members: \[(.*)\]", block)
        listed[block.split()[0]] = members[1].split(", ") if members else []
    missing = []
    for kind in set(kinds_of(Settings)) - {StoredConfig, Method, Against}:
        path = f"{kind.__module__}.{kind.__qualname__}"
        if path not in listed:  # of a module, its members are classes, shown whole
            missing += [path] if kind.__name__ not in listed.get(kind.__module__, []) else []
        elif listed[path]:
            own = {field.name for field in dataclasses.fields(kind)} & inspect.get_annotations(kind).keys()
            missing += [f"{path}.{name}" for name in own - set(listed[path])]
    assert not missing


def test_every_attack_names_where_it_was_published() -> None:
    assert not [name for name, attack in known_attacks().items() if not attack.source]
