"""Dynamic batching: requests of many clients go through the graph together, each gets its own rows back."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DeadlineError, InputError, ModelError, OverloadedError, ServeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Array = NDArray[Any]

LARGE = 2**16
"""Bytes of pixels from which a request is handed over by itself: reading others takes longer than waking the thread."""


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
    Small requests that the event loop reads in one turn are handed over together: waking the thread for each of them
    would cost both threads more than the graph does.

    Args:
        run: Pixels (N, ...) to logits (N, K); called on the batcher's thread, never twice at once.
        check: Raises a ``ServeError`` for pixels that cannot be used; called there too, for every request by itself.
        max_batch: Most images of one run, and of one request.
        max_delay: Seconds that the first of a batch waits for others.
        max_queue: Most images that are accepted and not yet answered.
        observe: Told of every run: images, and the seconds that the first of them waited.
    """

    def __init__(
        self,
        run: Callable[[Array], Array],
        check: Callable[[Array], None],
        *,
        max_batch: int,
        max_delay: float,
        max_queue: int,
        observe: Callable[[int, float], None],
    ) -> None:
        self._run, self._check, self._observe = run, check, observe
        self._max_batch, self._max_delay, self._max_queue = max_batch, max_delay, max_queue
        self._arrived: list[_Waiting] = []
        self._queue: SimpleQueue[_Waiting | None] = SimpleQueue()
        self._kept: _Waiting | None = None
        self._closing, self._gate = False, threading.Lock()
        self.waiting = 0
        """How many images are accepted and not yet answered; changed by the event loop alone."""
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    async def submit(self, pixels: Array, deadline: float = float("inf")) -> Array:
        """Return the logits (N, K) of pixels (N, ...).

        Args:
            pixels: In the graph's own type and layout.
            deadline: When the answer is of no use any more, in seconds of ``time.monotonic``: pixels that are still
                waiting then are not run. The caller's own timeout ends the waiting.

        Raises:
            InputError: More images than a batch holds, or what ``check`` found.
            OverloadedError: Too many images wait, or the batcher is closing.
            DeadlineError: The deadline passed before the pixels were run.
        """
        if len(pixels) > self._max_batch:
            raise InputError(
                f"The request holds {len(pixels)} images.",
                expected=f"at most {self._max_batch}",
                remedy="send several requests",
            )
        if self._closing:
            raise _stopping()
        if self.waiting + len(pixels) > self._max_queue:
            raise OverloadedError(
                f"{self.waiting} images are waiting.", expected=f"at most {self._max_queue}", remedy="retry later"
            )
        loop = asyncio.get_running_loop()
        item = _Waiting(pixels, loop.create_future(), deadline)
        self.waiting += len(pixels)
        self._arrived.append(item)
        if pixels.nbytes >= LARGE:
            self._hand_over()
        elif len(self._arrived) == 1:
            loop.call_soon(self._hand_over)
        try:
            return await item.answer
        finally:
            self.waiting -= len(pixels)

    def close(self) -> None:
        """Take no more requests; from another thread than the event loop's, wait until all that wait are answered."""
        with self._gate:
            self._closing = True
            self._queue.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        """Give the thread what arrived; nothing can follow the sign that ends it."""
        arrived, self._arrived = self._arrived, []
        with self._gate:
            if not self._closing:
                for item in arrived:
                    self._queue.put(item)
                return
        _answer([(item, _stopping()) for item in arrived])

    def _work(self) -> None:
        while batch := self._gather():
            self._process(batch)

    def _gather(self) -> list[_Waiting]:
        """Wait for requests and return those of the next batch; none when closed and empty."""
        first, self._kept = self._kept or self._queue.get(), None
        if first is None:
            return []
        batch, images = [first], len(first.pixels)
        until = first.since + self._max_delay
        while images < self._max_batch:
            left = until - time.monotonic()
            try:
                item = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except Empty:
                break
            if item is None:  # closing: this batch is the last but one
                self._queue.put(None)
                break
            if images + len(item.pixels) > self._max_batch:
                self._kept = item
                break
            batch.append(item)
            images += len(item.pixels)
        return batch

    def _process(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        results: list[tuple[_Waiting, Array | ServeError]] = []
        good: list[_Waiting] = []
        for item in batch:
            if item.deadline > started:
                good.append(item)
            else:
                results.append((item, DeadlineError("The deadline passed before the images were run.")))
        try:
            results += self._results(good)
        except Exception as error:  # whatever it is, the clients must hear of it and the thread must live
            known = error if isinstance(error, ServeError) else ModelError(f"The model failed: {error!r}")
            results += [(item, known) for item in good]
        batch[0].answer.get_loop().call_soon_threadsafe(_answer, results)
        self._observe(sum(len(item.pixels) for item in good), started - batch[0].since)

    def _results(self, batch: list[_Waiting]) -> list[tuple[_Waiting, Array | ServeError]]:
        """Check and run; one look at the whole batch is enough where nothing is wrong with it."""
        batch = [item for item in batch if not item.answer.done()]  # those clients have gone
        if not batch:
            return []
        results: list[tuple[_Waiting, Array | ServeError]] = []
        pixels = _joined(batch)
        try:
            self._check(pixels)
        except ServeError:
            good = []
            for item in batch:
                try:
                    self._check(item.pixels)
                    good.append(item)
                except ServeError as error:
                    results.append((item, error))
            if not good:
                return results
            batch, pixels = good, _joined(good)
        logits, end = self._run(pixels), 0
        for item in batch:
            start, end = end, end + len(item.pixels)
            results.append((item, logits[start:end]))
        return results


def _stopping() -> OverloadedError:
    return OverloadedError("The server is stopping.", remedy="send the request to another one")


def _answer(results: list[tuple[_Waiting, Array | ServeError]]) -> None:
    for item, result in results:
        if item.answer.done():  # the client has gone
            continue
        if isinstance(result, ServeError):
            item.answer.set_exception(result)
        else:
            item.answer.set_result(result)


def _joined(batch: list[_Waiting]) -> Array:
    return batch[0].pixels if len(batch) == 1 else np.concatenate([item.pixels for item in batch])
