"""The process that reads what may be hostile: one job after another from its input, answers to its output.

It is limited in memory, the server kills it when a deadline passes, and it imports neither onnxruntime nor the server.
A message is two lengths, a head as JSON, and bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ServeError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LENGTHS = struct.Struct("<IQ")
NICENESS = 5
"""Health and tensors go first."""


def pack(head: dict[str, Any], content: bytes | memoryview = b"") -> bytes:
    """Return the lengths and the head of a message; ``content`` has to follow."""
    text = json.dumps(head).encode()
    return LENGTHS.pack(len(text), len(content)) + text


def main() -> None:
    """Answer until the input ends. The one argument is the memory that jobs may take, in bytes."""
    _limit(int(sys.argv[1]))
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    outgoing.write(pack({"ready": True}))
    outgoing.flush()
    while message := incoming.read(LENGTHS.size):
        size, length = LENGTHS.unpack(message)
        head = json.loads(incoming.read(size))
        answered, content = _answer(head, incoming.read(length))
        outgoing.write(pack(answered, content))
        outgoing.write(content)
        outgoing.flush()


def _answer(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], memoryview]:
    try:
        answered, array = JOBS[head.pop("job")](data, **head)
        content = array.data.cast("B")
    except ServeError as error:
        return {"error": type(error).__name__, "text": str(error)}, memoryview(b"")
    except MemoryError:
        return {"error": TooLargeError.__name__, "text": "The request takes too much memory to read."}, memoryview(b"")
    return answered, content


def _picture(data: bytes, *, shape: list[int], pixels: int, interpolation: str) -> tuple[dict[str, Any], NDArray[Any]]:
    from .images import decode

    channels, height, width = shape
    return {}, decode(data, (channels, height, width), max_pixels=pixels, interpolation=interpolation)


def _numbers(data: bytes, *, signature: dict[str, Any]) -> tuple[dict[str, Any], NDArray[Any]]:
    from .protocol import Signature, parse, pixels_of

    described = Signature.of_plain(signature)
    request = parse(data, described)
    pixels = pixels_of(request, memoryview(b""), described)
    told = {name: getattr(request, name) for name in ("count", "id", "outputs", "binary", "timeout")}
    return told, pixels


JOBS: dict[str, Callable[..., tuple[dict[str, Any], NDArray[Any]]]] = {"picture": _picture, "numbers": _numbers}


def _limit(memory: int) -> None:
    """Bound what this process may take, on systems that can."""
    from PIL import Image, WebPImagePlugin  # noqa: F401  # what a job imports is no part of what it may take

    from . import images, protocol  # noqa: F401

    Image.preinit()
    Image.MAX_IMAGE_PIXELS = None  # the cap is ours, and holds before anything is decoded
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")  # this one first, never the server
    with contextlib.suppress(AttributeError, OSError):
        os.nice(NICENESS)
