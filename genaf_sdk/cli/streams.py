"""Standard output and error that suit every reader: one who has gone, one on another code page, none at all."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

from genaf_sdk.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import TextIO

    from _typeshed import ReadableBuffer

GONE = (errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN, *((errno.EINVAL,) if os.name == "nt" else ()))
"""How a system says that nobody reads any more; Windows calls it an invalid argument."""


class _Outlet(io.FileIO):
    """A descriptor that swallows what nobody reads: `genaf encoders | head` ends well, and training goes on.

    Args:
        descriptor: 1 or 2.
        forgiven: Errors that turn the descriptor into the null device; None forgives all.
    """

    def __init__(self, descriptor: int, forgiven: Collection[int] | None) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.forgiven = forgiven

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            _silence(self.fileno())
            if self.forgiven is None or error.errno in self.forgiven:
                return memoryview(data).nbytes
            raise OutputError(
                f"Standard output cannot be written: {error.strerror or error}.",
                remedy="free space where it goes; files that were written by then are whole",
            ) from error


def prepare_streams() -> None:
    """Make the process's standard streams UTF-8, and deaf to readers that leave.

    Where they go to a terminal, its own encoding stays, and what it cannot show becomes a question mark. Streams that
    a caller has put in their place, as tests and notebooks do, stay as they are.
    """
    for descriptor in (0, 1, 2):
        _require_open(descriptor)
    sys.stdout = _prepared(sys.stdout, sys.__stdout__, 1, GONE)
    # Progress, warnings and errors are told, not delivered: no failure to tell is worth a run.
    sys.stderr = _prepared(sys.stderr, sys.__stderr__, 2, None)


def _prepared(
    stream: TextIO | None, original: TextIO | None, descriptor: int, forgiven: Collection[int] | None
) -> TextIO:
    if stream is not original:
        return sys.stdout if stream is None else stream
    on_terminal = os.isatty(descriptor)
    if os.name == "nt" and on_terminal and stream is not None:  # a console of its own kind, and UTF-8 already
        return stream
    encoding = stream.encoding if on_terminal and stream is not None else "utf-8"
    if stream is not None:
        stream.flush()
    outlet = io.BufferedWriter(_Outlet(descriptor, forgiven))
    lines = on_terminal or descriptor == 2
    return io.TextIOWrapper(outlet, encoding, errors="replace", line_buffering=lines)


def _require_open(descriptor: int) -> None:
    """Open a closed standard stream on the null device, lest the next file that is opened gets its number."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_RDWR)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _silence(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
