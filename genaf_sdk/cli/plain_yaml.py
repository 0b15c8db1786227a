"""YAML as it reads: the core schema of YAML 1.2, in which `no` is a word, 010 is ten and a date is text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Hashable

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
BASES = {"0o": 8, "0x": 16}


def load(text: str) -> Any:
    """Return what ``text`` holds, as YAML 1.2's core schema reads it.

    PyYAML reads YAML 1.1, which takes `no` for false, `010` for eight, `1:30` for ninety and `2026-11-25` for a date,
    and says nothing of a name that is given twice.

    Raises:
        YAMLError: It is no YAML, or a name is given twice.
    """
    return yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader


class _Loader(yaml.SafeLoader):
    """Reads only plain values; resolvers are its own."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's

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
