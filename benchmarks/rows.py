"""Rows of a long measurement: each is in its file as soon as it is there, and a run that was stopped goes on."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from genaf_sdk.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Row = dict[str, Any]


class Rows:
    """The rows of one file, a line of JSON each; a last line that was cut off does not count.

    Args:
        path: The file; it and its folder are made when the first row comes.
        key: Names of all that a row depends on; one that lacks a name, as earlier ones may, is no row of any key.
    """

    def __init__(self, path: Path, key: tuple[str, ...]) -> None:
        self.path, self.key = path, key
        content = path.read_bytes() if path.exists() else b""
        self._rows = _complete(content)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def has(self, **key: object) -> bool:
        """Return whether there is a row of this key."""
        if set(key) != set(self.key):
            raise KeyError(f"a row is found by {', '.join(self.key)}, not by {', '.join(key)}")
        return bool(self.of(**key))

    def of(self, **values: object) -> list[Row]:
        """Return the rows that have these values."""
        asked: Row = json.loads(json.dumps(values))
        return [row for row in self._rows if all(name in row and row[name] == asked[name] for name in asked)]

    def add(self, row: Row) -> None:
        """Add a row in one write, behind those that another process has added meanwhile."""
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            lock(file)
            file.seek(0)
            content = file.read()
            content = content[: content.rfind(b"\n") + 1]
            file.truncate(len(content))
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._rows = _complete(content + line)


def _complete(content: bytes) -> list[Row]:
    return [json.loads(line) for line in content.split(b"\n")[:-1]]
