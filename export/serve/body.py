"""Reading an HTTP body without ever holding more of it than is allowed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from .errors import DeadlineError, OverloadedError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Receive = Callable[[], Awaitable[Any]]

LINGER = 2.0
"""Seconds that the rest of a refused body is read and dropped for: a client that still writes would see a broken
connection rather than the answer."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete: there is nobody to answer."""


class Bodies:
    """All bodies that are being read or worked on.

    Args:
        largest: Most bytes of one.
        memory: Most bytes of all together.
    """

    def __init__(self, largest: int, memory: int) -> None:
        self._largest, self._memory = largest, memory
        self.held = 0

    async def read(self, receive: Receive, declared: int | None, deadline: float, *, padding: int = 0) -> bytes:
        """Return a whole body; ``release`` must follow.

        Args:
            receive: Of the ASGI connection.
            declared: Content-Length, or None for a body in chunks.
            deadline: In seconds of ``time.monotonic``.
            padding: Blanks to put before the body, so that what follows its head is aligned without another copy.

        Raises:
            TooLargeError: It is, or says that it is, larger than allowed.
            OverloadedError: Together with the others it would take too much memory.
            DeadlineError: It did not come in time.
            ClientGoneError: The client went away.
        """
        chunks = [b" " * padding] if padding else []
        size = padding
        self.held += padding
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                if declared is not None and declared > self._largest:
                    raise await self._refusal(receive)
                async for chunk in _chunks(receive):
                    size += len(chunk)
                    self.held += len(chunk)
                    if size - padding > self._largest:
                        raise await self._refusal(receive)
                    if self.held > self._memory:
                        raise OverloadedError("The bodies of all open requests take too much memory.", remedy="retry later")
                    chunks.append(chunk)
        except TimeoutError as error:
            self.held -= size
            raise DeadlineError("The body did not come before the deadline.", remedy="allow it more time") from error
        except BaseException:
            self.held -= size
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def release(self, body: bytes) -> None:
        """Say that a body is no longer held."""
        self.held -= len(body)

    async def _refusal(self, receive: Receive) -> TooLargeError:
        try:
            async with asyncio.timeout(LINGER):
                async for _ in _chunks(receive):
                    pass
        except (TimeoutError, ClientGoneError):
            pass  # the answer goes out either way, and the connection is closed after it
        return TooLargeError(
            f"The request is larger than {self._largest} bytes.",
            expected=f"at most {self._largest} bytes",
            remedy="send fewer images at once, as binary tensors",
        )


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return
