"""Dynamic batching: requests of many clients go through the graph together, each gets its own rows back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DeadlineError, InputError, ModelError, OverloadedError, ServeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]


@dataclass
class _Waiting:
    """One request: its pixels, and the future that its client waits for."""

    pixels: Array
    answer: asyncio.Future[Array]
    deadline: float
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs requests in batches on a thread of its own, oldest first.

    While one batch runs, the next one gathers; a lone request does not wait for company unless ``max_delay`` says so.

    Args:
        run: Pixels (N, ...) to logits (N, K); called on the batcher's thread, never twice at once.
        check: Raises a ``ServeError`` for pixels that cannot be used; called there too, for every request by itself.
        max_batch: Most images of one run, and of one request.
        max_delay: Seconds that the first of a batch waits for others.
        max_queue: Most images that wait.
        observe: Told of every run: images, and the seconds that each request waited.
    """

    def __init__(
        self,
        run: Callable[[Array], Array],
        check: Callable[[Array], None],
        *,
        max_batch: int,
        max_delay: float,
        max_queue: int,
        observe: Callable[[int, Sequence[float]], None],
    ) -> None:
        self._run, self._check, self._observe = run, check, observe
        self._max_batch, self._max_delay, self._max_queue = max_batch, max_delay, max_queue
        self._queue: deque[_Waiting] = deque()
        self._images = 0
        self._closing = False
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many images wait for a run."""
        return self._images

    async def submit(self, pixels: Array, deadline: float = float("inf")) -> Array:
        """Return the logits (N, K) of pixels (N, ...).

        Args:
            pixels: In the graph's own type and layout.
            deadline: When the client stops waiting, in seconds of ``time.monotonic``.

        Raises:
            InputError: More images than a batch holds, or what ``check`` found.
            OverloadedError: Too many images wait, or the batcher is closing.
            DeadlineError: The deadline passed before the answer was there.
        """
        if len(pixels) > self._max_batch:
            raise InputError(
                f"The request holds {len(pixels)} images.",
                expected=f"at most {self._max_batch}",
                remedy="send several requests",
            )
        item = _Waiting(pixels, self._loop.create_future(), deadline)
        with self._changed:
            if self._closing:
                raise OverloadedError("The server is stopping.", remedy="send the request to another one")
            if self._images + len(pixels) > self._max_queue:
                raise OverloadedError(
                    f"{self._images} images are waiting.", expected=f"at most {self._max_queue}", remedy="retry later"
                )
            self._queue.append(item)
            self._images += len(pixels)
            self._changed.notify()
        if deadline == float("inf"):
            return await item.answer
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await item.answer
        except TimeoutError as error:
            raise DeadlineError("The deadline passed while the request waited.", remedy="allow it more time") from error

    def close(self) -> None:
        """Take no more requests, answer all that wait, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._gather():
            self._process(batch)

    def _gather(self) -> list[_Waiting]:
        """Wait for requests and return those of the next batch; none when closed and empty."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            if self._max_delay and self._queue:
                until = self._queue[0].since + self._max_delay
                while not self._closing and self._images < self._max_batch:
                    if not self._changed.wait(until - time.monotonic()):
                        break
            batch: list[_Waiting] = []
            images = 0
            while self._queue and images + len(self._queue[0].pixels) <= self._max_batch:
                batch.append(self._queue.popleft())
                images += len(batch[-1].pixels)
            self._images -= images
            return batch

    def _process(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        results: list[tuple[_Waiting, Array | ServeError]] = []
        good: list[_Waiting] = []
        for item in batch:
            if item.answer.done() or item.deadline <= started:  # nobody waits any more
                continue
            try:
                self._check(item.pixels)
                good.append(item)
            except ServeError as error:
                results.append((item, error))
        if good:
            try:
                pixels = good[0].pixels if len(good) == 1 else np.concatenate([item.pixels for item in good])
                logits = self._run(pixels)
                ends = np.cumsum([len(item.pixels) for item in good])
                results += zip(good, np.split(logits, ends[:-1]), strict=True)
            except Exception as error:  # whatever it is, the clients must hear of it and the thread must live
                known = error if isinstance(error, ServeError) else ModelError(f"The model failed: {error!r}")
                results += [(item, known) for item in good]
            self._observe(sum(len(item.pixels) for item in good), [started - item.since for item in good])
        self._loop.call_soon_threadsafe(_answer, results)


def _answer(results: list[tuple[_Waiting, Array | ServeError]]) -> None:
    for item, result in results:
        if item.answer.done():  # the client has gone
            continue
        if isinstance(result, ServeError):
            item.answer.set_exception(result)
        else:
            item.answer.set_result(result)
