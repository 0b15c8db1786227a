"""YAML as it reads: the core schema of YAML 1.2, in which `no` is a word, 010 is ten and a date is text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
BASES = {"0o": 8, "0x": 16}
MOST_VALUES = 100_000
"""What a file may stand for that holds less text: aliases of aliases grow without end."""


def load(text: str) -> Any:
    """Return what ``text`` holds, as YAML 1.2's core schema reads it.

    PyYAML reads YAML 1.1, which takes `no` for false, `010` for eight, `1:30` for ninety and `2026-11-25` for a date,
    and says nothing of a name that is given twice.

    Raises:
        YAMLError: It is no YAML, a name is given twice, or its aliases stand for far more than it holds.
    """
    return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader


class _Loader(yaml.SafeLoader):
    """Reads only plain values; resolvers are its own."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._most = max(MOST_VALUES, len(text))  # without aliases every value takes a character

    def compose_document(self) -> yaml.Node | None:
        found: yaml.Node | None = super().compose_document()
        if found is not None and _values(found, {}) > self._most:
            raise yaml.composer.ComposerError(None, None, f"its aliases stand for more than {self._most:,} values")
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        text = str(node.value)
        return int(text[2:], BASES[text[:2]]) if text[:2] in BASES else int(text)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node stands for, each alias with all that it repeats; ``known`` has those of others."""
    if id(node) not in known:
        inside = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        parts = () if isinstance(node, yaml.ScalarNode) else inside
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


_CORE = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (INTEGER.pattern, "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "null": ("~|null|Null|NULL|", "~nN\0"),
    "merge": ("<<", "<"),
}
for _kind, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(rf"(?:{_pattern})\Z"), [c.strip("\0") for c in _first]
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
