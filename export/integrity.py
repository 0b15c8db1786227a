"""Making the list of a bundle's files, and what of them may be published; ``models.checksums`` reads the list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genaf_sdk.errors import ExportError
from genaf_sdk.files import write_json
from genaf_sdk.models.checksums import (
    CHECKSUMS_FILE,
    SIGNATURE_FILE,
    UNLISTED,
    check_whole,
    digest,
    found_files,
    listed,
)


@dataclass(frozen=True)
class BundleFile:
    """One file of a bundle: its path inside the folder, with slashes, and its size in bytes."""

    name: str
    size: int


def seal(folder: Path) -> None:
    """Write ``checksums.json`` over every file of a folder that holds nothing but a bundle."""
    write_json(folder / CHECKSUMS_FILE, {"sha256": checksums(folder)})


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that belongs to the bundle in ``folder``, by its path inside."""
    return {name: digest(folder / name) for name in sorted(found_files(folder) - UNLISTED)}


def renew(folder: Path, name: str) -> None:
    """State a file's new SHA-256 where the list of a bundle states an older one."""
    if (folder / CHECKSUMS_FILE).is_file():
        stated = listed(folder)
        if name in stated:
            write_json(folder / CHECKSUMS_FILE, {"sha256": stated | {name: digest(folder / name)}})


def publishable(folder: Path) -> list[BundleFile]:
    """Return what of a folder may be published: list, listed files, signature, each a regular file inside the folder.

    Raises:
        ExportError: The bundle is not whole, something beside it is not of a run, or a file is a link.
    """
    files = []
    names = [*check_whole(folder), CHECKSUMS_FILE]
    signature = folder / SIGNATURE_FILE
    names += [SIGNATURE_FILE] if signature.exists() or signature.is_symlink() else []
    for name in names:
        steps = [
            folder.joinpath(*PurePosixPath(name).parts[:depth])
            for depth in range(1, len(PurePosixPath(name).parts) + 1)
        ]
        if any(step.is_symlink() for step in steps):
            raise ExportError(
                f"{name} in {folder} is a link.", expected="regular files", remedy="copy what it leads to, or remove it"
            )
        files.append(BundleFile(name, (folder / name).stat().st_size))
    return files
