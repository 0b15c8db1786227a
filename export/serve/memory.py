"""One budget for all bytes that clients make the server hold, counted as long as they are held."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from typing import TYPE_CHECKING

from .errors import OverloadedError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable


LARGE = 32 * 2**20
"""Bytes; after requests of fewer, nothing need be given back."""
SECONDS = 3.0
M_ARENA_MAX = -8
"""Of glibc's malloc.h."""


class Memory:
    """A number of bytes that is shared out. Used by the event loop alone.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held, self.taken = limit, 0, 0
        self.freed: list[Callable[[], object]] = []
        """Called whenever bytes come back."""

    def has(self, size: int) -> bool:
        """Return whether so many bytes are free."""
        return self.held + size <= self.limit

    def lease(self, size: int = 0) -> Lease:
        """Return a lease of so many bytes.

        Raises:
            TooLargeError: There are not that many at all.
            OverloadedError: There are, but they are in use.
        """
        lease = Lease(self)
        if size:
            lease.grow(size)
        return lease


class Lease:
    """A part of the memory. It goes back when the last of those who share it lets go."""

    __slots__ = ("_holders", "_memory", "size")

    def __init__(self, memory: Memory) -> None:
        self._memory, self._holders, self.size = memory, 1, 0

    def grow(self, size: int) -> None:
        """Take so many bytes more.

        Raises:
            TooLargeError: There are not that many at all.
            OverloadedError: There are, but they are in use.
        """
        memory = self._memory
        if memory.held + size <= memory.limit:
            self.size += size
            memory.held += size
            memory.taken += size
            return
        if self.size + size > memory.limit:
            raise TooLargeError(
                f"The request needs {self.size + size} bytes of memory.",
                expected=f"at most {memory.limit}",
                remedy="send less at once, or scale pictures down",
            )
        raise OverloadedError("All open requests together take too much memory.", remedy="retry later")

    def share(self) -> Lease:
        """Return the lease to one more holder, who has to release it, too."""
        self._holders += 1
        return self

    def release(self) -> None:
        """Let go."""
        self._holders -= 1
        if self._holders == 0 and self.size:
            self._memory.held -= self.size
            for told in self._memory.freed:
                told()


def use_one_pool() -> None:
    """Have all threads allocate from one pool: in pools of their own, glibc keeps what gRPC's leave of messages."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


async def give_back(memory: Memory) -> None:
    """Return to the system what large requests have left in the allocator's pools, when few come; for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    before = 0
    while trim is not None:  # of glibc; other allocators do so by themselves
        await asyncio.sleep(SECONDS)
        quiet, before = memory.taken - before < LARGE // 16, memory.taken
        if quiet and memory.taken >= LARGE > memory.held:
            memory.taken = before = 0
            gc.collect()
            await asyncio.to_thread(trim, 0)
