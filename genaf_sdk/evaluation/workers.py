"""Threads that attack side by side, each on copies of the models that are its own.

Of a small network at 32 pixels, one convolution is too short for two threads: two attacks of one thread each take less
time than one after the other on two, and a busy neighbor holds up one of them instead of both. torch lets other Python
threads run while it computes. Every attack depends on its settings, its seed and what it starts from alone, so that the
results are those of one worker with as many threads.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from genaf_sdk.errors import RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

logger = logging.getLogger(__name__)
T = TypeVar("T")
Own = Callable[[nn.Module], nn.Module]
"""Gives, for a module, the one that a worker may use."""
MOST_WORKERS, MOST_PIXELS = 4, 64 * 64
"""Larger images keep all threads of one convolution busy, and need memory for every worker."""


class StoppedWorkError(Exception):
    """Ends an attack that nobody waits for any more."""


class Workers:
    """A context with threads for attacks; with one worker, all is done at once where it is submitted.

    Args:
        count: How many work side by side.
        with_caller: Whether whoever submits works, too: one of them waits, and the caller has its share of torch's
            threads, until it calls ``join``.
    """

    def __init__(self, count: int = 1, *, with_caller: bool = False) -> None:
        self.count, self._threads = count, torch.get_num_threads()
        self._lock, self._stopped, self._joined = threading.Lock(), threading.Event(), threading.Event()
        self._copies: dict[tuple[int, int], tuple[nn.Module, nn.Module]] = {}
        self._pool = ThreadPoolExecutor(count, "attack", self._begin) if count > 1 else None
        if self._pool is not None and with_caller:
            self._pool.submit(self._joined.wait)
            torch.set_num_threads(self._share)

    @classmethod
    def suited(cls, modules: Sequence[nn.Module], pixels: int, *, with_caller: bool = False) -> Workers:
        """Return as many as torch has threads, where that is faster: small images, on a processor, copies possible.

        Args:
            modules: What is attacked.
            pixels: Of one image, height times width.
            with_caller: As above.
        """
        devices = {parameter.device.type for module in modules for parameter in module.parameters()}
        if pixels > MOST_PIXELS or devices - {"cpu"}:
            return cls()
        try:
            for module in modules:
                copy.deepcopy(module)
        except Exception as error:  # whatever a user's module raises
            logger.debug("attacks run one after the other: a model cannot be copied: %r", error)
            return cls()
        return cls(min(torch.get_num_threads(), MOST_WORKERS), with_caller=with_caller)

    @property
    def _share(self) -> int:
        return max(1, self._threads // self.count)

    def join(self) -> None:
        """Let the worker begin that had left its share to the caller, who does nothing but wait from now on."""
        self._joined.set()

    def submit(self, piece: Callable[[Own], T]) -> Future[T]:
        """Have a piece of work done; pieces begin in the order in which they are submitted.

        Args:
            piece: Gets a function that gives, for a module, the one to work with; a copy is in eval mode, and its
                weights get no gradients. It may wait for what was submitted before it.
        """
        if self._pool is None:
            return done(lambda: piece(lambda module: module))
        return self._pool.submit(copy_context().run, piece, self._own)

    def _begin(self) -> None:
        torch.set_num_threads(self._share)

    def _own(self, module: nn.Module) -> nn.Module:
        key = threading.get_ident(), id(module)
        if key not in self._copies:
            with self._lock:
                made = copy.deepcopy(module).eval().requires_grad_(False)
            made.register_forward_pre_hook(self._stop)
            self._copies[key] = module, made
        return self._copies[key][1]

    def _stop(self, *_: Any) -> None:
        if self._stopped.is_set():
            raise StoppedWorkError

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is None:
            return
        if error is not None:
            self._stopped.set()
        self.join()
        try:
            self._pool.shutdown(cancel_futures=error is not None)
        finally:  # also where who waits here is interrupted once more
            torch.set_num_threads(self._threads)  # threads to come take over what was set last


def done(work: Callable[[], T]) -> Future[T]:
    """Return what ``work()`` gives or raises, as a future that is done; a run that is to stop stops here."""
    future: Future[T] = Future()
    try:
        future.set_result(work())
    except RunStoppedError:
        raise
    except Exception as error:  # to be told where the result is asked for
        future.set_exception(error)
    return future
