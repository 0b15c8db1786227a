"""Several server processes on the same ports: a parent starts them, replaces those that die, and stops them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from .errors import SettingsError
from .logs import log
from .server import reserved

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess

    from .settings import Settings

EARLY_SECONDS, EARLY_ENDS = 10.0, 3
"""After so many processes in a row that lived no longer than this, the server gives up."""
FAILED = 1


def supervise(count: int, work: Callable[[Settings], int], settings: Settings) -> int:
    """Run ``work`` in ``count`` processes that share the ports until SIGTERM or SIGINT; return the exit status.

    The kernel spreads connections over the processes (SO_REUSEPORT). What all requests may take together is divided
    among them: memory, connections, the queue. One that is killed or crashes is replaced; connections that it had are
    lost, and no others. One that ends with a status of its own, as where the model cannot be used, ends them all, as
    the next would end alike. If this process goes away, so do they.

    Args:
        count: How many processes.
        work: Serves until SIGTERM, and returns its exit status; picklable.
        settings: Of the whole server.

    Raises:
        SettingsError: The system cannot share ports, or one is taken.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError(
            f"--workers is {count}, and this system does not let processes share a port.", expected="1 worker here"
        )
    with ExitStack() as held:
        ports: dict[str, Any] = {"http_port": held.enter_context(reserved(settings, settings.http_port))}
        if settings.grpc_port is not None:
            ports["grpc_port"] = held.enter_context(reserved(settings, settings.grpc_port))
        found = {name: each.getsockname()[1] for name, each in ports.items()}
        shared = replace(
            settings,
            **found,
            shared_ports=True,
            max_memory=max(1, settings.max_memory // count),
            max_connections=max(1, settings.max_connections // count),
            max_queue=max(settings.max_batch, settings.max_queue // count),
        )
        return _Parent(count, work, shared).run()


class _Parent:
    def __init__(self, count: int, work: Callable[[Settings], int], settings: Settings) -> None:
        self._work, self._settings = work, settings
        self._context = multiprocessing.get_context("spawn")
        self._stopping, self._status, self._early = False, 0, 0
        self._born: dict[SpawnProcess, float] = {}
        self._count = count

    def run(self) -> int:
        handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for _ in range(self._count):
                if not self._stopping:
                    self._start()
            log("workers", {"processes": [process.pid for process in self._born]})
            while self._born:
                ended = wait([process.sentinel for process in self._born])
                for process in [process for process in self._born if process.sentinel in ended]:
                    self._bury(process)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._status

    def _start(self) -> None:
        process = self._context.Process(target=_serve, args=(self._work, self._settings))
        process.start()
        self._born[process] = time.monotonic()
        if self._stopping:  # the signal came while it was started, when it was not known yet
            process.terminate()

    def _bury(self, process: SpawnProcess) -> None:
        process.join()
        lived = time.monotonic() - self._born.pop(process)
        if self._stopping:
            return
        self._early = self._early + 1 if lived < EARLY_SECONDS else 0
        log("worker lost", {"process": process.pid, "status": process.exitcode}, level=logging.WARNING)
        unusable = process.exitcode is not None and process.exitcode > 0
        if unusable or self._early >= EARLY_ENDS:
            self._status = process.exitcode if unusable and process.exitcode is not None else FAILED
            self._stop()
        else:
            self._start()

    def _stop(self, *_: object) -> None:
        self._stopping = True
        for process in self._born:
            process.terminate()


def _serve(work: Callable[[Settings], int], settings: Settings) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    raise SystemExit(work(settings))


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
