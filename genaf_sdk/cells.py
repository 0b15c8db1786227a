"""Independent pieces of work on an executor: what fails costs its own piece, and so does a worker that is lost.

Any ``concurrent.futures.Executor`` does, and whatever has its ``submit``, such as submitit's for Slurm.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

from genaf_sdk.errors import GenafError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    Piece = Callable[[], Any]

Cell = TypeVar("Cell", bound="Piece")
POLL_SECONDS = 0.1
_TURNS = threading.Lock()


class Future(Protocol):
    """What a cell will have given: of ``concurrent.futures``, or a job of submitit."""

    def done(self) -> bool:
        """Return whether the cell has ended, one way or the other."""

    def result(self) -> Any:
        """Return what the cell gave, or raise what it raised."""

    def cancel(self) -> Any:
        """Have the cell not run, if that is still possible."""


class Executor(Protocol):
    """Whatever runs functions elsewhere."""

    def submit(self, fn: Callable[[], Any], /) -> Future:
        """Have ``fn()`` run."""


class LostWorkerError(GenafError):
    """The process that a cell ran in ended: killed, out of memory, or crashed."""


class Cells(Generic[Cell]):
    """A context that runs cells, each a picklable callable, and yields ``(cell, result or exception)`` as they end.

    More may be submitted meanwhile. A ``ProcessPoolExecutor`` that loses a process breaks as a whole. Then the cells
    that may have been running go on alone, one after the other, each in a fresh pool if the one before broke, too. So
    the cell that breaks it is found, and is the only one to fail. Cells of one process take turns, as torch's random
    numbers belong to the process.

    Args:
        executor: Where they run. It stays the caller's to shut down.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor, self._callers = executor, executor
        self._waiting: list[Cell] = []
        self._suspects: list[Cell] = []
        self._running: dict[Future, Cell] = {}
        self._is_alone = False

    def __enter__(self) -> Cells[Cell]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in self._running:
            future.cancel()
        if self._executor is not self._callers and isinstance(self._executor, ProcessPoolExecutor):
            self._executor.shutdown(cancel_futures=True)

    def submit(self, cell: Cell) -> None:
        """Add a cell."""
        self._waiting.append(cell)

    def __iter__(self) -> Iterator[tuple[Cell, Any]]:
        while self._suspects or self._waiting or self._running:
            self._hand_out()
            future = self._first_done()
            try:
                result = future.result()
            except BrokenExecutor as error:
                yield from self._sort_out(error)
                continue
            except Exception as error:  # whatever a cell raises, or its executor on the cell's behalf
                result = error
            yield self._running.pop(future), result

    def _hand_out(self) -> None:
        while self._suspects or self._waiting:
            if self._running and (self._suspects or self._is_alone):
                return
            source = self._suspects or self._waiting
            try:
                future = self._executor.submit(_InTurn(source[0], _threads(self._executor)))
            except BrokenExecutor:  # since its last cell ended
                if self._running:
                    return
                self._renew()
                continue
            self._running[future] = source.pop(0)
            self._is_alone = source is self._suspects

    def _first_done(self) -> Future:
        while True:
            for future in self._running:
                if future.done():
                    return future
            time.sleep(POLL_SECONDS)

    def _sort_out(self, error: BrokenExecutor) -> Iterator[tuple[Cell, Exception]]:
        """Yield the cell that broke the pool, if it was alone there; else put those that may have done it aside."""
        broken = {future: cell for future, cell in self._running.items() if _is_broken(future)}
        self._running = {future: cell for future, cell in self._running.items() if future not in broken}
        cells = list(broken.values())
        try:
            self._renew()
        except BrokenExecutor:
            yield from ((cell, _lost(error)) for cell in cells)
            return
        if len(cells) == 1:
            yield cells[0], _lost(error)
            return
        count = _workers(self._executor)  # a pool begins them in the order in which they were submitted
        self._suspects, self._waiting = cells[:count], [*cells[count:], *self._waiting]

    def _renew(self) -> None:
        """Replace a broken pool by one like it.

        Raises:
            BrokenExecutor: The executor is of another kind.
        """
        old: Any = self._executor
        if type(old) is not ProcessPoolExecutor:
            raise BrokenExecutor("the executor broke")
        self._executor = ProcessPoolExecutor(
            _workers(old),
            old._mp_context,
            old._initializer,
            old._initargs,
            max_tasks_per_child=vars(old)["_max_tasks_per_child"],
        )


@contextmanager
def local_processes(count: int) -> Iterator[ProcessPoolExecutor | None]:
    """Give a pool of ``count`` fresh processes on this machine; None, for this process itself, where that is one.

    They end with this process, however it ends: nobody would get what they work on. Where the machine has several GPUs,
    they share them out among them.
    """
    if count == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (context.Value("i", 0),)) as pool:
        yield pool


def _begin(begun: Any) -> None:
    """Begin a process; ``begun``: a shared number, of processes before this one."""
    with begun.get_lock():
        index, begun.value = begun.value, begun.value + 1
    if torch.accelerator.is_available() and torch.accelerator.device_count() > 1:
        torch.accelerator.set_device_index(index % torch.accelerator.device_count())
    threading.Thread(target=_end_with_the_parent, name="genaf-parent", daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@dataclass(frozen=True)
class _InTurn:
    """A cell as a worker runs it."""

    cell: Piece
    threads: int | None

    def __call__(self) -> Any:
        with _TURNS:
            if self.threads is not None:
                torch.set_num_threads(self.threads)
            return self.cell()


def _workers(pool: Any) -> int:
    return int(pool._max_workers)


def _threads(executor: Executor) -> int | None:
    """Return how many threads a process of a pool on this machine gets: its share, and one where it was forked.

    A fork has this process's OpenMP runtime without its threads, and would wait for them. Other executors decide.
    """
    if not isinstance(executor, ProcessPoolExecutor):
        return None
    context = executor._mp_context
    forked = context is not None and context.get_start_method() == "fork"
    return 1 if forked else max(1, torch.get_num_threads() // _workers(executor))


def _is_broken(future: Future) -> bool:
    """Return whether a cell was lost with its pool; waits for it, as a broken pool ends all of its cells."""
    try:
        future.result()
    except BrokenExecutor:
        return True
    except Exception:  # the cell's own, to be told when its turn comes
        return False
    return False


def _lost(error: BrokenExecutor) -> LostWorkerError:
    return LostWorkerError(
        f"The process that it ran in ended abruptly: {error}.",
        remedy="look for what killed it, such as too little memory, and start again: what is done is kept",
    )
