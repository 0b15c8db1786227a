"""Bundles are written whole or not at all: beside the older one, which goes once the new one is there."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genaf_sdk.errors import GenafError, OutputError
from genaf_sdk.export.layout import CARD_FILE, CHECKSUMS_FILE, SERVE_FOLDER, is_ours
from genaf_sdk.files import read_json, write_json
from genaf_sdk.locks import one_at_a_time
from genaf_sdk.models.checksums import UNLISTED, found_files, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARTIAL, PREVIOUS, NAMES = ".bundle.partial", ".bundle.previous", "names.json"
TURN = ".bundle.turn.partial"
"""Locked by whoever writes; its name is one of those that no list has to name."""


@contextmanager
def replacing_bundle(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside ``folder``; if the block succeeds, what is in it takes the place of an older bundle.

    Files of the older bundle that the new one lacks are removed; files that no bundle wrote stay. If anything fails,
    the older bundle is as it was. A write that was killed while files were exchanged is undone by the next one. Two who
    write into one folder take turns.

    Raises:
        OutputError: The folder cannot be written, or a file of the user's stands in the way.
    """
    partial = folder / PARTIAL
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder / TURN):
            try:
                _recover(folder)
                partial.mkdir()
                yield partial
                _exchange(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise OutputError(
            f"The bundle in {folder} cannot be written: {error.strerror or error}.",
            remedy="check permissions and free space; the older bundle is as it was",
        ) from error


def require_free(folder: Path) -> None:
    """Check that no ``README.md`` and no ``serve/`` of the user's would be overwritten by a bundle.

    Raises:
        OutputError: There is one that no bundle in the folder lists.
    """
    ours = _of_older_bundle(folder)
    generic = [name for name in found_files(folder) if name == CARD_FILE or name.startswith(f"{SERVE_FOLDER}/")]
    foreign = sorted(set(generic) - ours)
    if foreign:
        raise _not_ours(folder, foreign[0])


def foreign_files(folder: Path) -> list[str]:
    """Return the files in a folder that no bundle or run wrote: a bundle beside them is not whole, and is refused."""
    return sorted(found_files(folder) - _of_older_bundle(folder) - UNLISTED)


def _not_ours(folder: Path, name: str) -> OutputError:
    return OutputError(
        f"{folder} holds {name}, which no bundle wrote and a bundle would overwrite.",
        expected="a folder of its own",
        remedy="choose another output folder, or move the file",
    )


def _of_older_bundle(folder: Path) -> set[str]:
    """Return which files in a folder an older bundle wrote."""
    found = found_files(folder)
    try:
        stated = set(listed(folder))
    except GenafError:  # no list, or a damaged one: only what has a name of ours is ours
        stated = set()
    return {name for name in found if name in stated or is_ours(name)}


def _exchange(folder: Path) -> None:
    partial, previous = folder / PARTIAL, folder / PREVIOUS
    new = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if not path.is_dir())
    new.sort(key=lambda name: name == CHECKSUMS_FILE)  # the list comes last: where it is, everything else is complete
    old = sorted(_of_older_bundle(folder), key=lambda name: (name != CHECKSUMS_FILE, name))
    in_the_way = sorted(set(new) & found_files(folder) - set(old))
    if in_the_way:
        raise _not_ours(folder, in_the_way[0])
    previous.mkdir()
    write_json(previous / NAMES, new)
    try:
        for name in old:
            _move(folder / name, previous / "files" / name)
        for name in new:
            _move(partial / name, folder / name)
    except BaseException:
        _roll_back(folder)
        raise
    (previous / NAMES).unlink()
    shutil.rmtree(previous)
    _remove_empty(folder, old)


def _recover(folder: Path) -> None:
    """Undo an exchange that was killed, and remove what an unfinished write left."""
    if (folder / PREVIOUS / NAMES).is_file():
        _roll_back(folder)
    shutil.rmtree(folder / PREVIOUS, ignore_errors=True)
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)


def _roll_back(folder: Path) -> None:
    partial, previous = folder / PARTIAL, folder / PREVIOUS
    names = read_json(previous / NAMES)
    kept = previous / "files"
    old = [path.relative_to(kept).as_posix() for path in kept.rglob("*") if not path.is_dir()]
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and not (partial / name).exists() and is_inside(folder, name):
            (folder / name).unlink(missing_ok=True)
    write_json(previous / NAMES, [])  # what is put back now is not to be removed, should this end here and begin anew
    for name in sorted(old, key=lambda name: (name == CHECKSUMS_FILE, name)):
        _move(kept / name, folder / name)
    shutil.rmtree(previous)


def is_inside(folder: Path, name: str) -> bool:
    """Whether a path leads to somewhere below ``folder``."""
    return (folder / name).resolve().is_relative_to(folder.resolve())


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)


def _remove_empty(folder: Path, names: list[str]) -> None:
    for parent in sorted({(folder / name).parent for name in names}, reverse=True):
        if parent != folder and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
