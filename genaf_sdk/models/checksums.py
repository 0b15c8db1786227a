"""Which files a bundle has: those that ``checksums.json`` lists, each as it was written, and no others.

Two files stand beside the list: itself, and ``model.sig``, which signs everything, the list included.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from genaf_sdk.errors import ExportError, GenafError, OutputError
from genaf_sdk.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

CHECKSUMS_FILE, SIGNATURE_FILE = "checksums.json", "model.sig"
LEFTOVERS = ("checkpoints/", "metrics.jsonl", "genaf-sdk/", ".genaf.lock", ".gitattributes", ".cache/")
"""What a run, a tracker or the Hub leaves beside a bundle; it is neither listed nor published."""
MOST_FILES, LONGEST_NAME = 10_000, 1000
AGAIN = "write or download the bundle again"
MINE_OR_NOT = "move it elsewhere if it is yours; otherwise use nothing of this folder"
COMPILED = "remove the folders __pycache__: Python leaves them where a bundle's own code is run without -B"
UNLISTED = frozenset({CHECKSUMS_FILE, SIGNATURE_FILE})
TEMPORARY = re.compile(r"\.[^/]*\.partial(/.*)?|\.bundle\.[a-z]+/.*")
"""What a write that was killed leaves; the next one removes it."""


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_listed(folder: Path, *, renewed: str = "") -> None:
    """Check a folder against its list, if it has one: a bundle has to be whole, but for a file that is made anew.

    Raises:
        ExportError: A file is missing, is not the one that was written, or is not listed.
        OutputError: The list is no JSON.
    """
    if (folder / CHECKSUMS_FILE).exists():
        check_whole(folder, renewed=renewed)


def listed(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that the bundle's list states, by its path inside the folder.

    Raises:
        ExportError: There is no list, or none that can be used.
        OutputError: The list is no JSON.
    """
    if not folder.is_dir():
        raise ExportError(f"There is no folder {folder}.", expected="a folder of `genaf harden`, or hf-hub:ORG/NAME")
    if not (folder / CHECKSUMS_FILE).is_file():
        raise ExportError(
            f"{folder} holds no whole bundle: {CHECKSUMS_FILE} is missing.",
            expected="a folder of `genaf harden`, which writes that file last",
        )
    content = read_json(folder / CHECKSUMS_FILE)
    stated = content.get("sha256") if isinstance(content, dict) else None
    if not isinstance(stated, dict) or not 0 < len(stated) <= MOST_FILES:
        raise ExportError(f"{folder / CHECKSUMS_FILE} states no checksums.", expected='{"sha256": {FILE: DIGEST}}')
    for name, value in stated.items():
        if not _is_inside(name) or not isinstance(value, str) or re.fullmatch("[0-9a-f]{64}", value) is None:
            raise ExportError(
                f"{folder / CHECKSUMS_FILE} lists {name!r:.100} with {value!r:.100}.",
                expected="paths inside the folder, with slashes, and SHA-256 digests",
            )
    return dict(stated)


def check_whole(folder: Path, *, renewed: str = "") -> list[str]:
    """Check that a folder holds exactly the files that its list states, and return their names.

    What a run leaves beside its bundle (``LEFTOVERS``) is passed over, as is a file that is to be made anew.

    Raises:
        ExportError: A file is missing, is not the one that was written, or is not listed.
        OutputError: The list is no JSON.
    """
    stated = listed(folder)
    _check(folder, {name: value for name, value in stated.items() if name != renewed})
    stray = sorted(found_files(folder) - set(stated) - UNLISTED)
    if stray:
        more = f", nor are {len(stray) - 1} more" if len(stray) > 1 else ""
        raise ExportError(
            f"{stray[0]} in {folder} is not listed in {CHECKSUMS_FILE}{more}.",
            expected="the files of the bundle and no others",
            remedy=COMPILED if all("__pycache__" in name.split("/") for name in stray) else MINE_OR_NOT,
        )
    return sorted(stated)


def check_some(folder: Path, *names: str) -> None:
    """Check some files of a folder against its list, if it has one, whatever else lies or lacks there.

    Raises:
        ExportError: One is missing, is not the one that was written, or is not listed.
        OutputError: The list is no JSON.
    """
    if (folder / CHECKSUMS_FILE).exists():
        stated = listed(folder)
        for name in names:
            if name not in stated:
                raise ExportError(f"{name} in {folder} is not listed in {CHECKSUMS_FILE}.", remedy=AGAIN)
        _check(folder, {name: stated[name] for name in names})


def require_outside(path: Path) -> Path:
    """Return where something is to be written, unless that is inside a bundle, which would no longer be whole.

    Raises:
        OutputError: It is.
    """
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        try:
            listed(folder)
        except (GenafError, OSError):  # no list, or somebody else's
            continue
        raise OutputError(
            f"{path} would lie in the bundle {folder}, which holds what its {CHECKSUMS_FILE} lists and nothing else.",
            expected="a place outside",
            remedy="choose another one",
        )
    return path


def found_files(folder: Path) -> set[str]:
    """Return every file in a folder by its path inside, but for what a run, the Hub or a killed write leaves there."""
    found = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        known = any(
            name == leftover or (leftover.endswith("/") and name.startswith(leftover)) for leftover in LEFTOVERS
        )
        if not known and TEMPORARY.fullmatch(name) is None and (path.is_symlink() or not path.is_dir()):
            found.add(name)
    return found


def _check(folder: Path, stated: dict[str, str]) -> None:
    """Refuse a folder in which a file is missing or has another SHA-256 than stated."""
    for name, value in stated.items():
        try:
            state = "" if (folder / name).is_file() else "is missing"
            if not state and digest(folder / name) != value:
                state = "is not the file that was written"
        except OSError as error:
            state = f"cannot be read: {error.strerror or error}"
        if state:
            raise ExportError(f"{name} in {folder} {state}.", remedy=AGAIN)


def _is_inside(name: object) -> bool:
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or "\\" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == name and ":" not in name
