"""HTTP connections that cannot fill the server: heads of bounded size and time, and room for one more caller."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    from .settings import Settings

HEAD_SECONDS = 10.0
"""From the first byte of a request's head, or from the connection, to the head's end; less where --timeout is less."""
KEEP_ALIVE = 75
"""Seconds that a connection may stay open between two requests."""
MAX_HEAD = 2**16
"""Bytes of a request's head, address and headers."""
MAX_LINES = 100
MAX_PIPELINED = 16
"""Requests that a connection may send ahead of their answers."""
SPARE = 64
"""Connections beyond the most that are served: they get health and refusals."""


class Connections:
    """All open connections of one server.

    When there is one too many, the one that has been silent for longest is closed: whoever opens connections and says
    nothing keeps nobody out.
    """

    def __init__(self, settings: Settings) -> None:
        self.most = settings.max_connections + SPARE
        self.head_seconds = min(settings.timeout, HEAD_SECONDS)
        self.write_seconds = settings.timeout
        self.open: set[Connection] = set()
        self.silent: dict[Connection, None] = {}
        """Those without a request under way, longest first."""

    def admit(self, connection: Connection) -> bool:
        """Take in a connection, if need be instead of a silent one; return whether there is room."""
        self.open.add(connection)
        if len(self.open) <= self.most:
            return True
        oldest = next(iter(self.silent), None)
        if oldest is None:
            return False
        oldest.cut()
        return True

    async def sweep(self) -> None:
        """Close what is over its time, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self.head_seconds / 4, 1.0))
            now = loop.time()
            for connection in list(self.open):
                if connection.until <= now:
                    connection.cut(late=True)
                elif connection.until == math.inf and connection.transport.is_closing():
                    connection.until = now + self.head_seconds  # its peer does not read the rest


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with limits.

    Args:
        connections: All of the server.
        options: Of uvicorn's class.
    """

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self.until = math.inf
        """When the connection is cut, in the event loop's time."""
        self._begun = False
        self._unread = 0
        """Bytes since the last head or part of a body."""
        self._too_large = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Expect a head."""
        super().connection_made(transport)
        if self._all.admit(self):
            self._expect(self._all.head_seconds)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._all.open.discard(self)
        self._all.silent.pop(self, None)
        super().connection_lost(exc)

    def cut(self, *, late: bool = False) -> None:
        """End the connection; say why to who has begun to speak and was too slow."""
        self._all.silent.pop(self, None)
        if late and self._begun and not self.transport.is_closing():
            self.until = math.inf  # until the sweep finds that it is still closing
            self._refuse(408)
        else:
            self._all.open.discard(self)
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the head grows too large or the body does not grow."""
        if not self._begun and self in self._all.silent:
            self._begun = True
            self.until = self.loop.time() + self._all.head_seconds
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEAD and not self.transport.is_closing():
            self._refuse(431)

    def on_headers_complete(self) -> None:
        """Let the request begin, if its head is no larger than a head may be."""
        if len(self.headers) > MAX_LINES or (self._unread > MAX_HEAD and self._head() > MAX_HEAD):
            self._too_large = True
            raise _LimitError
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _LimitError
        self._unread, self._begun, self.until = 0, False, math.inf
        self._all.silent.pop(self, None)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unread = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Go on with the next request, or expect its head; uvicorn's own way sets a timer for every answer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._expect(self._all.head_seconds if self.transport.get_write_buffer_size() else KEEP_ALIVE)

    def pause_writing(self) -> None:
        """Give the client some time to read its answer."""
        super().pause_writing()
        self.until = self.loop.time() + self._all.write_seconds

    def resume_writing(self) -> None:
        """The client reads: what is left to wait for is its next request, where this one is answered."""
        super().resume_writing()
        if self not in self._all.silent:
            self.until = math.inf
        elif not self._begun:
            self._expect(KEEP_ALIVE)

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with the head."""
        if self._too_large:
            self._refuse(431)
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def _expect(self, seconds: float) -> None:
        self.until = self.loop.time() + seconds
        self._all.silent[self] = None

    def _head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _refuse(self, status: int) -> None:
        self.transport.write(STATUS_LINE[status] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


class _LimitError(Exception):
    """More than a connection may send: the parser ends here."""
