"""Checkpoints that survive anything: written under a temporary name, flushed to disk, renamed; never unpickled.

A checkpoint is a folder of ``tensors.safetensors`` and ``metadata.json``, which holds the other's SHA-256::

    OUTPUT_DIR/checkpoints/run.json                  what the run was started with
                           stage-1/00000120/         after 120 steps of stage 1
                           sensitivity.json          results that are no weights
                           attacks/                  what an evaluation has crafted, until it is over
                           finished.json             once the run is over
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.errors import ConfigError, OutputError
from genaf_sdk.files import read_json, write_json
from genaf_sdk.settings import shown

if TYPE_CHECKING:
    from pathlib import Path


KEPT = 2  # checkpoints of a stage: the last one, and the one to fall back on
FINISHED_FILE = "finished.json"
FOLDER, RUN_FILE, TENSORS_FILE, METADATA_FILE = "checkpoints", "run.json", "tensors.safetensors", "metadata.json"
PARTIAL = ".partial"
_ABSENT = object()

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Where a stage stood: after ``step`` steps, with these tensors and, as JSON, this metadata."""

    step: int
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they are, made by ``open_checkpoints``; None keeps none.
        processes: The first one writes; all read, so that the folder has to be shared between hosts.
    """

    def __init__(self, folder: Path | None = None, processes: Processes = ALONE) -> None:
        self.folder, self.processes = folder, processes

    @property
    def attacks(self) -> Path | None:
        """Where an evaluation may keep what it has crafted."""
        return None if self.folder is None else self.folder / "attacks"

    def save(self, stage: str, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and remove the oldest beyond ``KEPT``; all processes call this.

        Raises:
            OutputError: It cannot be written, which all learn; those written before are as they were.
        """
        folder = self.folder
        if folder is not None:
            self.processes.together(lambda: self._write(folder / _slug(stage), checkpoint))

    def _write(self, folder: Path, checkpoint: Checkpoint) -> None:
        if not self.processes.is_first:
            return
        final = folder / f"{checkpoint.step:08d}"
        partial = folder / f"{PARTIAL}-{final.name}"
        try:
            _remove(final, partial)
            partial.mkdir(parents=True)
            copies = {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in checkpoint.tensors.items()
            }
            save_file(copies, partial / TENSORS_FILE)
            _flush(partial / TENSORS_FILE)
            write_json(partial / METADATA_FILE, {"sha256": _sha256(partial / TENSORS_FILE), **checkpoint.metadata})
            _flush(partial)
            partial.replace(final)
            _flush(folder)
            for old in _numbered(folder)[:-KEPT]:
                _remove(old, partial)
        except (OSError, SafetensorError) as error:
            raise OutputError(
                f"The checkpoint {final} cannot be written: {getattr(error, 'strerror', None) or error}.",
                remedy="free space or repair the folder, then go on with resume=True: earlier checkpoints are intact",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def latest(self, stage: str) -> Checkpoint | None:
        """Return a stage's newest intact checkpoint; damaged ones are passed over, and that is logged.

        Raises:
            OutputError: A process cannot read what the first one can, as where hosts do not share the folder.
        """
        if self.folder is None:
            return None
        folder, processes = self.folder / _slug(stage), self.processes
        found = processes.together(lambda: _newest_intact(folder) if processes.is_first else None)
        step = processes.broadcast(None if found is None else found.step)
        if step is None:
            return None
        return processes.together(lambda: read_checkpoint(folder / f"{step:08d}") if found is None else found)

    def note(self, name: str, value: Any) -> None:
        """Keep something of this run, as JSON; where the first process cannot, the others do not hear of it."""
        if self.folder is not None and self.processes.is_first:
            write_json(self.folder / f"{_slug(name)}.json", value)

    def noted(self, name: str) -> Any:
        """Return what this run kept under ``name``; None where there is nothing."""
        if self.folder is None:
            return None
        path = self.folder / f"{_slug(name)}.json"

        def read() -> Any:
            return read_json(path) if self.processes.is_first and path.is_file() else None

        return self.processes.broadcast(self.processes.together(read))

    def finish(self) -> None:
        """Note that the run is over: a later one may replace its checkpoints."""
        if self.folder is not None and self.processes.is_first:
            write_json(self.folder / FINISHED_FILE, {})


def open_checkpoints(
    output_dir: Path | None, identity: dict[str, Any], processes: Processes, *, resume: bool, overwrite: bool = False
) -> Checkpoints:
    """Return the checkpoints of a run: those that are there if it resumes, none if it starts.

    Args:
        output_dir: The run's folder, or None.
        identity: What a run that goes on must share with the one that started, as JSON.
        processes: The first one writes.
        resume: Whether to go on; where nothing was kept, the run starts.
        overwrite: Whether a run that starts may remove what one that was not finished kept.

    Raises:
        ConfigError: The run was started with something else; every difference is listed. Or it does not resume, and an
            unfinished one left checkpoints there.
        OutputError: The folder cannot be read or written, or holds what is not of this package.
    """
    if output_dir is None:
        if resume:
            raise ConfigError("resume=True without output_dir.", expected="the folder of the run that is to go on")
        return Checkpoints(None, processes)
    folder = output_dir / FOLDER

    def opened() -> None:
        if processes.is_first:
            _open(folder, identity, resume=resume, overwrite=overwrite)

    processes.together(opened)
    return Checkpoints(folder, processes)


def _open(folder: Path, identity: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
    run_file = folder / RUN_FILE
    if resume and run_file.is_file():
        changed = [line.removeprefix("config.") for line in differences(read_json(run_file), identity)]
        if changed:
            raise ConfigError(
                f"The run in {folder.parent} was started with something else: {'; '.join(changed)}.",
                expected="the settings, data and encoder that it was started with",
                remedy="state them as they were, also settings whose defaults a newer version has changed; or start "
                "anew with overwrite=True (--overwrite) instead",
            )
        try:
            for partial in folder.rglob(f"*{PARTIAL}*"):
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        except OSError as error:
            raise OutputError(f"{folder} cannot be tidied up: {error.strerror or error}.") from error
        return
    if resume:
        logger.warning("There is nothing to resume in %s: the run starts from the beginning.", folder.parent)
    elif run_file.is_file() and not overwrite and _is_unfinished(folder):
        raise ConfigError(
            f"{folder} holds the checkpoints of a run that was not finished.",
            expected="resume=True (--resume) to go on, or overwrite=True (--overwrite) to replace them",
            remedy="choose one of these, or another output_dir",
        )
    try:
        if not run_file.is_file() and folder.exists() and any(PARTIAL not in path.name for path in folder.iterdir()):
            raise OutputError(
                f"{folder} holds files, but no {RUN_FILE}: they belong to no run of this package.",
                expected="a folder of an earlier run, which a new one replaces, or none",
                remedy="move it away, or choose another output_dir",
            )
        # Under its final name a folder is whole or gone, so that a kill in between leaves nothing that is refused.
        _remove(folder, folder.with_name(f".{FOLDER}{PARTIAL}"))
    except OSError as error:
        raise OutputError(f"{folder} cannot be emptied: {error.strerror or error}.") from error
    write_json(run_file, identity)


def _is_unfinished(folder: Path) -> bool:
    return not (folder / FINISHED_FILE).is_file() and any(folder.rglob(METADATA_FILE))


def differences(before: Any, now: Any, path: str = "") -> list[str]:
    """Return every difference between two JSON values, as ``name was 8/255 and is 4/255``."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*before, *(name for name in now if name not in before)]
        return [
            line
            for name in names
            for line in differences(
                before.get(name, _ABSENT), now.get(name, _ABSENT), f"{path}.{name}".removeprefix(".")
            )
        ]
    was, found = ("not there" if value is _ABSENT else shown(value) for value in (before, now))
    return [] if before == now else [f"{path} was {was} and is {found}"]


def _slug(name: str) -> str:
    return name.replace(" ", "-")


def _numbered(folder: Path) -> list[Path]:
    """Return a stage's checkpoints, oldest first; what else lies there, copies of them included, is not ours."""
    return sorted(path for path in folder.glob("[0-9]" * 8) if path.is_dir())


def _newest_intact(folder: Path) -> Checkpoint | None:
    for numbered in reversed(_numbered(folder)):
        try:
            return read_checkpoint(numbered)
        except OutputError as error:
            logger.warning("%s The one before it is used instead.", error)
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and compare it with its checksum.

    Raises:
        OutputError: A file is missing or damaged.
    """
    metadata = read_json(folder / METADATA_FILE)
    try:
        if metadata.pop("sha256") != _sha256(folder / TENSORS_FILE):
            raise OutputError(f"The checkpoint {folder} is damaged: its checksum does not match.")
        return Checkpoint(int(folder.name), load_file(folder / TENSORS_FILE), metadata)
    except (OSError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise OutputError(f"The checkpoint {folder} is damaged: {error}.") from error


def _remove(folder: Path, partial: Path) -> None:
    """Remove a checkpoint; from the first moment on it has no final name any more."""
    shutil.rmtree(partial, ignore_errors=True)
    if folder.exists():
        folder.replace(partial)
        shutil.rmtree(partial)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk; Windows has no such thing for folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
