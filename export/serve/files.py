"""Reading a bundle's files once: what is compared, parsed and run are the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .errors import BundleError

CHECKSUMS_FILE = "checksums.json"
MAX_MODEL, MAX_JSON = 2**31, 2**24
"""Bytes; the first is what a protocol buffer can hold."""
LONGEST_NAME = 200
COPY = "copy or download the bundle again"


class BundleFiles:
    """The files of one folder.

    Args:
        folder: It.
        listed: Whether ``checksums.json`` has to list what is read.
        signed: SHA-256 of the files that a signature covers, which then count in place of that list.

    Raises:
        BundleError: There is no list, where there has to be one.
    """

    def __init__(self, folder: Path, *, listed: bool, signed: dict[str, str] | None = None) -> None:
        self.folder = folder
        self._sums: dict[str, Any] | None = signed
        self._list = CHECKSUMS_FILE if signed is None else "its signature"
        if listed and signed is None:
            content = parse_json(folder / CHECKSUMS_FILE, read_file(folder / CHECKSUMS_FILE, MAX_JSON))
            sums = content.get("sha256") if isinstance(content, dict) else None
            if not isinstance(sums, dict):
                raise BundleError(
                    f"{folder / CHECKSUMS_FILE} lists no checksums.", expected='{"sha256": {"model.onnx": ...}}'
                )
            self._sums = sums

    def read(self, name: str, most: int = MAX_JSON) -> bytes:
        """Return the content of a file whose checksum is right.

        Raises:
            BundleError: It differs, is not listed, is larger than ``most`` bytes, or cannot be read.
        """
        return self._checked(name, read_file(self.folder / name, most))

    def read_json(self, name: str, missing: Any) -> Any:
        """Return a JSON file's content, or ``missing`` where there is no such file and none is listed.

        Raises:
            BundleError: As for ``read``, or it is no JSON.
        """
        if not (self.folder / name).exists() and name not in (self._sums or {}):
            return missing
        return parse_json(self.folder / name, self.read(name))

    def read_weights(self, name: str) -> bytes:
        """Return the content of a file beside the model, which the model names.

        Raises:
            BundleError: As for ``read``; or it lies elsewhere, is a link, or has another name, too.
        """
        parts = (PurePosixPath(name).parts, PureWindowsPath(name).parts)
        plain = name and all(len(part) == 1 for part in parts) and name not in (".", "..") and "\0" not in name
        if not plain or len(name) > LONGEST_NAME:
            raise BundleError(
                f"The model keeps weights in {name[:LONGEST_NAME]!r}.", expected="a plain file name beside the model"
            )
        return self._checked(name, read_file(self.folder / name, half_of_memory(), alone=True))

    def _checked(self, name: str, content: bytes) -> bytes:
        if self._sums is not None:
            found = hashlib.sha256(content).hexdigest()
            if self._sums.get(name) != found:
                said = self._sums.get(name, "nothing of it")
                raise BundleError(
                    f"The SHA-256 of {self.folder / name} is {found}, {self._list} says {said}.",
                    expected="the file as it was exported",
                    remedy=f"{COPY}; do not serve this one",
                )
        return content


def half_of_memory() -> int:
    """Return half of the machine's memory in bytes, at least 1 GiB; a model may take it, and no more."""
    try:
        return max(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, 2**30)
    except (AttributeError, OSError, ValueError):  # a system that does not say
        return 2**35


def read_file(path: Path, most: int, *, alone: bool = False) -> bytes:
    """Return a regular file's content.

    Args:
        path: The file.
        most: Bytes.
        alone: Refuse symbolic and hard links.

    Raises:
        BundleError: There is none, or it is too large, or a link that must not be one.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        if alone:
            flags |= getattr(os, "O_NOFOLLOW", 0)
            if path.is_symlink() or not path.is_file():
                raise BundleError(
                    f"The model's weights {path} are missing or a symbolic link.",
                    expected="a regular file",
                    remedy="download the bundle into a folder of its own (local_dir=...)",
                )
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                raise BundleError(
                    f"{path} is no regular file, or has {found.st_size} bytes.", expected=f"a file of at most {most}"
                )
            if alone and found.st_nlink != 1:
                raise BundleError(
                    f"The model's weights {path} are a hard link to a file elsewhere.",
                    expected="a file of one name only",
                    remedy="copy the bundle",
                )
            return file.read(found.st_size)
    except (OSError, MemoryError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", remedy=COPY) from error


def parse_json(path: Path, content: bytes) -> Any:
    """Return what a JSON file says.

    Raises:
        BundleError: It is none, or an object in it has two values of one name.
    """
    try:
        return json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}.", remedy=COPY) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ in which they take
        raise ValueError("an object has two values of one name")
    return found
