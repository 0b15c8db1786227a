"""Locks of folders and files: the system lets go of each when the process that took it ends, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from genaf_sdk.errors import OutputError
from genaf_sdk.files import NO_FOLLOW, is_at, output_errors

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK_FILE = ".genaf.lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
LOCK_OFFSET = 1 << 30  # beyond the text, which stays readable
_held: set[int] = set()
"""Descriptors that hold a lock. A forked process has them, too, and would hold the lock beyond the end of this one."""

logger = logging.getLogger(__name__)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Context: this process alone writes into ``folder``, as far as processes ask.

    The system lets go of the lock when the process ends, however it ends. Where the file system has no locks, that is
    logged as a warning.

    Raises:
        OutputError: Another run holds the folder, or it cannot be written.
    """
    path = folder / LOCK_FILE
    with output_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _lock_file(path)
    if descriptor is None:
        holder = " ".join(_first_line(path).split()) or "another process"
        raise OutputError(
            f"The output folder {str(folder)!r} is in use by {holder}.",
            expected="a folder that no other run writes into",
            remedy="wait for that run to end, or choose another output_dir",
        )
    try:
        with output_errors(path):
            os.ftruncate(descriptor, 0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {started}\n".encode())
        yield
    finally:
        _unlock(descriptor, path)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Context: of all who name this file, one goes on and the others wait; an ``OSError`` where it cannot be made."""
    while (descriptor := _lock_file(path, wait=True)) is None:  # Windows waits for seconds alone
        pass
    try:
        yield
    finally:
        _unlock(descriptor, path)


def lock(file: IO[bytes]) -> None:
    """Wait until nobody else has locked an open file, and lock it until it is closed; else a warning is logged.

    Raises:
        OSError: The system could not lock it.
    """
    try:
        _lock(file.fileno(), wait=True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s cannot be locked here: see to it that no other process writes there.", file.name)


def _lock_file(path: Path, *, wait: bool = False) -> int | None:
    """Open and lock ``path`` until the descriptor is closed; None if another process has it and is not waited for."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | NO_FOLLOW, 0o666)
        try:
            _lock(descriptor, wait=wait)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                    return None
                raise
            logger.warning("%s cannot be locked here: see to it that no second run writes there.", path.parent)
        if is_at(descriptor, path):
            _held.add(descriptor)
            return descriptor
        os.close(descriptor)  # its holder removed it in between: a new one counts


def _unlock(descriptor: int, path: Path) -> None:
    if descriptor not in _held:  # in a forked process, whose lock it is not
        return
    if sys.platform != "win32":  # while it is locked; Windows removes no open file
        path.unlink(missing_ok=True)
    _held.discard(descriptor)
    os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, LOCK_OFFSET, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].partition("\n")[0]
    except OSError:
        return ""


def _let_go() -> None:
    """In a forked process, such as one that reads images ahead: leave the locks to the process that took them."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
