"""Processes that decode pictures and read long JSON: they can be stopped, which a thread cannot."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import DeadlineError, InputError, OverloadedError, ServeError
from .worker import LENGTHS, pack

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from .memory import Lease, Memory

SECONDS = 10.0
"""How long one job may run, whatever its deadline."""
START_SECONDS = 30.0
SLACK = 128 * 2**20
"""Bytes a process may take beyond what its job was counted with: the allocator's, and the libraries'."""
# As a package of its own without its __init__: that imports onnxruntime, and genaf_sdk's imports torch.
CODE = (
    "import sys, types; package = types.ModuleType('serve'); package.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['serve'] = package; from serve.worker import main; main()"
)


class Pool:
    """Some processes; the cheapest job goes first, so that those who send huge pictures wait for one another.

    Args:
        memory: What the jobs take while they run is taken from here.
        size: How many processes; None is one a core, at least two, at most four.
    """

    def __init__(self, memory: Memory, size: int | None = None) -> None:
        self._memory, self._size = memory, size or min(max(os.cpu_count() or 1, 2), 4)
        self._idle: list[Process] = []
        self._started, self._closed = 0, False
        self._waiting: list[tuple[int, int, asyncio.Future[tuple[Process | None, Lease]]]] = []
        self._number = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        memory.freed.append(self._dispatch)

    async def start(self) -> None:
        """Start a process, so that the first job need not wait for it.

        Raises:
            ServeError: It does not start.
        """
        self._started += 1
        try:
            self._idle.append(await self._start())
        except BaseException:
            self._started -= 1
            raise
        self._dispatch()

    async def run(self, head: dict[str, Any], content: bytes | memoryview, cost: int) -> tuple[dict[str, Any], bytes]:
        """Return what a process answers; cancelling this kills it.

        Args:
            head: Name and arguments of the job.
            content: What it is about.
            cost: Bytes that it will take.

        Raises:
            ServeError: Of the job; or it ended its process, took too long, or costs more than there is.
        """
        process, lease = await self._turn(cost)
        try:
            process = process or await self._start()
            async with asyncio.timeout(SECONDS):
                answer, data = await _ask(process, head, content)
        except BaseException as error:
            self._bury(process, lease)
            if isinstance(error, (EOFError, OSError)) and not isinstance(error, TimeoutError):
                raise InputError("Reading the request ended the process that read it.") from error
            if isinstance(error, TimeoutError):
                raise DeadlineError(
                    f"Reading the request took more than {SECONDS:g} s.", remedy="scale the picture down"
                ) from error
            raise
        if self._closed:
            self._bury(process, lease)
        else:
            self._idle.append(process)
            lease.release()
            self._dispatch()
        if "error" in answer:
            kind = getattr(errors, answer["error"])
            raise kind(answer["text"])
        return answer, data

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for _, _, future in self._waiting:
            if not future.done():
                future.set_exception(OverloadedError("The server is stopping.", remedy="ask another one"))
        await asyncio.gather(*map(_end, self._idle), *self._tasks)
        self._idle.clear()

    async def _turn(self, cost: int) -> tuple[Process | None, Lease]:
        """Wait for a process, which may have to be started, and for memory."""
        if cost > self._memory.limit:
            self._memory.lease(cost)  # raises
        future: asyncio.Future[tuple[Process | None, Lease]] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (cost, next(self._number), future))
        self._dispatch()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._bury(*future.result())
            self._waiting = [entry for entry in self._waiting if entry[2] is not future]
            heapq.heapify(self._waiting)
            raise

    def _dispatch(self) -> None:
        while self._idle and self._idle[-1].returncode is not None:  # the system ended it
            self._idle.pop()
            self._started -= 1
        while self._waiting and (self._idle or self._started < self._size) and not self._closed:
            cost, _, future = self._waiting[0]
            if future.done():
                heapq.heappop(self._waiting)
                continue
            if not self._memory.has(cost):
                return
            heapq.heappop(self._waiting)
            process = self._idle.pop() if self._idle else None
            self._started += process is None
            future.set_result((process, self._memory.lease(cost)))

    async def _start(self) -> Process:
        flags = ["-P", *(["-B"] if sys.dont_write_bytecode else [])]  # a bundle's own code leaves nothing in it
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *flags, "-c", CODE, str(Path(__file__).parent), str(self._memory.limit + SLACK)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is the server's: it ends them when their work is done
        )
        try:
            async with asyncio.timeout(START_SECONDS):
                await _receive(process)
        except BaseException as error:
            await _end(process)
            if isinstance(error, (EOFError, OSError)):
                raise ServeError("The process that reads pictures does not start.") from error
            raise
        return process

    def _bury(self, process: Process | None, lease: Lease) -> None:
        """Kill a process; what it held is free, and its place too, when it is gone."""

        async def wait() -> None:
            if process is not None:
                await _end(process)
            self._started -= 1
            lease.release()
            self._dispatch()

        task = asyncio.get_running_loop().create_task(wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()


async def _ask(process: Process, head: dict[str, Any], content: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
    incoming = process.stdin
    if incoming is None:
        raise EOFError
    incoming.write(pack(head, content))
    incoming.write(content)
    await incoming.drain()
    return await _receive(process)


async def _receive(process: Process) -> tuple[dict[str, Any], bytes]:
    outgoing = process.stdout
    if outgoing is None:
        raise EOFError
    size, length = LENGTHS.unpack(await outgoing.readexactly(LENGTHS.size))
    head = json.loads(await outgoing.readexactly(size))
    return head, await outgoing.readexactly(length)
