"""Freed memory of the C library (glibc): kept where the next step needs it, given back where nobody does."""

from __future__ import annotations

import ctypes
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of ``mallopt``: from how many free bytes on memory is given back; from what size on a piece is the
kernel's alone, and goes back as soon as it is free."""
NEVER, MIB = -1, 2**20


@contextmanager
def reused_memory() -> Iterator[None]:
    """Context: memory that this process frees stays with it, and is given back at the end.

    A step of training frees all that it needed. The C library of most Linux systems (glibc) then gives it back to the
    kernel, and the next step waits until every page is cleared again: 3 to 8 % of a step of the bundled encoder. What
    is computed does not depend on it. Pieces of 32 MiB and more go back all the same: kept ones would be cut up by
    smaller ones, and the process would grow. With other C libraries nothing happens.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, 32 * MIB)  # what the library itself arrives at, once so large a piece was freed
    libc.mallopt(TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 64 * MIB)  # likewise
        libc.malloc_trim(0)


def give_back() -> None:
    """Return freed memory to the system.

    Torch asks for aligned memory, and glibc (2.36) often finds no room for it in a freed piece of the same size, up to
    32 MiB: without this, a pass over 2,000 images of 224 x 224 pixels ends with 3 GiB that hold nothing.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
