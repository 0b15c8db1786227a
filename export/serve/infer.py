"""The one HTTP endpoint that is called thousands of times a second, as plain ASGI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers

from . import protocol
from .errors import InputError, TooLargeError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping

    from .body import Bodies
    from .service import Service

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

LENGTH_HEADER = "inference-header-content-length"
MAX_JSON = 16 * 2**20
"""Bytes; numbers as text take twenty times their size while they are read."""
INLINE_JSON = 2**16
"""Bytes of JSON that the event loop reads itself; more would hold up everybody else."""


class InferEndpoint:
    """Reads a request's body, runs the model and writes the logits."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._models, self._bodies = service.models, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise what is wrong with it."""
        headers, call, path = Headers(scope=scope), scope["call"], scope["path_params"]
        model = self._models.get(path["name"], path.get("version", ""))
        length, declared = _json_length(headers), declared_length(headers)
        padding = 0 if length is None else -length % 4  # so that the floats after it are aligned
        async with call.in_time():
            body = await self._bodies.read(receive, declared, padding=padding)
            try:
                if length is None and len(body) > MAX_JSON:
                    raise TooLargeError(
                        f"The request is JSON of {len(body)} bytes.",
                        expected=f"at most {MAX_JSON} bytes",
                        remedy="send the tensor as binary data",
                    )
                if length is None and len(body) > INLINE_JSON:
                    parsed = await asyncio.to_thread(protocol.parse, body, None, model)
                else:
                    parsed = protocol.parse(body, None if length is None else length + padding, model)
                if parsed.timeout is None:
                    logits = await model.infer(parsed.pixels, call.deadline)
                else:
                    call.allow(parsed.timeout)
                    async with call.in_time():
                        logits = await model.infer(parsed.pixels, call.deadline)
            finally:
                self._bodies.release(body)
        content, head = protocol.respond(logits, parsed, model)
        kind = (b"content-type", b"application/json" if head is None else b"application/octet-stream")
        answered = [kind, (b"content-length", str(len(content)).encode())]
        if head is not None:
            answered.append((LENGTH_HEADER.encode(), str(head).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        await send({"type": "http.response.body", "body": content})


def declared_length(headers: Mapping[str, str]) -> int | None:
    """Return the body's size as its headers state it; None for a body in chunks.

    Raises:
        UnsupportedError: The body is compressed: its real size is not known before it is too late.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedError(f"The body is encoded as {encoding[:40]!r}.", expected="a body as it is")
    declared = headers.get("content-length")
    return None if declared is None else int(declared)


def _json_length(headers: Mapping[str, str]) -> int | None:
    value = headers.get(LENGTH_HEADER)
    if value is None:
        return None
    if not value.isdecimal() or len(value) > 18:
        raise InputError(f"Inference-Header-Content-Length is {value[:40]!r}.", expected="a number of bytes")
    return int(value)
