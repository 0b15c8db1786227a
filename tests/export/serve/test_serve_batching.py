"""The batcher by itself, with a graph that only says what it was given."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from genaf_sdk.export.serve.batching import LARGE, Batcher
from genaf_sdk.export.serve.errors import DeadlineError, InputError, ModelError, OverloadedError, ServeError
from genaf_sdk.export.serve.memory import Memory

Array = np.ndarray[Any, Any]


class Graph:
    """Doubles its pixels; says when a run begins, and waits for ``go`` before it does."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.begun, self.go = threading.Event(), threading.Event()
        self.go.set()

    def run(self, pixels: Array) -> Array:
        self.begun.set()
        assert self.go.wait(20)
        self.batches.append(pixels[:, 0].tolist())
        if pixels.max() > 100:
            raise RuntimeError("boom")
        return 2 * pixels

    def check(self, pixels: Array) -> None:
        if pixels.min() < 0:
            raise InputError("negative")


def batcher(graph: Graph, max_batch: int = 8, max_queue: int = 64, enough: int | None = None) -> Batcher:
    options: dict[str, Any] = {"max_batch": max_batch, "max_queue": max_queue, "enough": enough}
    return Batcher(graph.run, graph.check, max_delay=0, observe=lambda *_: None, **options)


def request(*values: float, width: int = 3) -> Array:
    return np.repeat(np.array(values, np.float32)[:, None], width, axis=1)


async def results(batcher: Batcher, *requests: Array) -> list[Any]:
    return await asyncio.gather(*map(batcher.submit, requests), return_exceptions=True)


def test_small_requests_of_one_turn_run_together() -> None:
    graph = Graph()
    answers = asyncio.run(results(batcher(graph), request(1), request(2, 3), request(4)))
    assert graph.batches == [[1, 2, 3, 4]]
    for answer, values in zip(answers, ([2], [4, 6], [8]), strict=True):
        np.testing.assert_array_equal(answer[:, 0], values)


def test_no_request_joins_what_is_enough_for_a_run() -> None:
    graph = Graph()
    requests = [request(1), request(2), request(3), request(4, 5, 6), request(7)]
    answers = asyncio.run(results(batcher(graph, enough=2), *requests))
    assert graph.batches == [[1, 2], [3], [4, 5, 6], [7]]
    np.testing.assert_array_equal(np.concatenate(answers), 2 * np.concatenate(requests))


def test_large_requests_gather_while_a_batch_runs() -> None:
    graph = Graph()
    graph.go.clear()

    async def main() -> None:
        gathering = batcher(graph, max_batch=3)
        tasks = [asyncio.create_task(gathering.submit(request(0, width=LARGE // 4)))]
        await asyncio.to_thread(graph.begun.wait, 20)
        tasks += [asyncio.create_task(gathering.submit(request(value, width=LARGE // 4))) for value in range(1, 6)]
        await asyncio.sleep(0)
        graph.go.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert graph.batches == [[0], [1, 2, 3], [4, 5]]


def test_a_bad_request_is_answered_alone_and_a_failing_graph_to_all() -> None:
    answers = asyncio.run(results(batcher(Graph()), request(1), request(-1), request(3)))
    assert [type(answer) for answer in answers] == [np.ndarray, InputError, np.ndarray]
    assert answers[2][0, 0] == 6
    failed = asyncio.run(results(batcher(Graph()), request(1), request(101)))
    assert [type(answer) for answer in failed] == [ModelError] * 2


def test_limits_are_kept_and_given_back() -> None:
    graph = Graph()
    small = batcher(graph, max_batch=2, max_queue=3)

    async def main() -> list[Any]:
        found = await results(small, request(1, 2), request(3, 4), request(5), request(6, 7, 8))
        assert small.waiting == 0
        return found + await results(small, request(9))

    found = asyncio.run(main())
    kinds = [np.ndarray, OverloadedError, np.ndarray, InputError, np.ndarray]
    assert [type(answer) for answer in found] == kinds


def test_what_is_too_late_or_cancelled_is_not_run() -> None:
    graph, memory = Graph(), Memory(10)
    graph.go.clear()
    late = batcher(graph, max_batch=1)

    async def main() -> Any:
        lease = memory.lease(10)
        first = asyncio.create_task(late.submit(request(1)))
        gone = asyncio.create_task(late.submit(request(2), lease=lease))
        expired = asyncio.create_task(late.submit(request(3), time.monotonic() + 0.05))
        await asyncio.sleep(0.1)
        lease.release()
        assert (late.waiting, memory.held) == (3, 10)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert (late.waiting, memory.held) == (2, 0), "given back while another one is run"
        graph.go.set()
        return await asyncio.gather(first, gone, expired, return_exceptions=True)

    answers = asyncio.run(main())
    assert [type(answer) for answer in answers] == [np.ndarray, asyncio.CancelledError, DeadlineError]
    assert graph.batches == [[1]]


def test_closing_answers_all_that_wait_and_refuses_the_rest() -> None:
    graph = Graph()
    graph.go.clear()

    async def main() -> list[Any]:
        closing = batcher(graph, max_batch=1)
        waiting = [asyncio.create_task(closing.submit(request(value, width=LARGE))) for value in (1, 2, 3)]
        await asyncio.sleep(0.05)
        threading.Timer(0.1, graph.go.set).start()
        await asyncio.to_thread(closing.close)
        with pytest.raises(OverloadedError, match="stopping"):
            await closing.submit(request(4))
        return await asyncio.gather(*waiting)

    assert [answer[0, 0] for answer in asyncio.run(main())] == [2, 4, 6]


def test_a_request_that_arrives_as_the_batcher_closes_is_not_lost() -> None:
    async def main() -> None:
        closing = batcher(Graph())
        task = asyncio.create_task(closing.submit(request(1)))
        asyncio.get_running_loop().call_soon(closing.close)  # after the request has come, before it is handed over
        async with asyncio.timeout(10):
            await task

    with pytest.raises(ServeError, match="stopping"):
        asyncio.run(main())


def test_no_answer_waits_for_the_run_after_it() -> None:
    turns = threading.Semaphore(2)

    def run(pixels: Array) -> Array:
        assert turns.acquire(timeout=20)
        return pixels

    async def main() -> None:
        stepping = Batcher(
            run, lambda _: None, max_batch=1, max_delay=0.01, max_queue=9, observe=lambda images, _: None
        )
        tasks = [asyncio.create_task(stepping.submit(request(value))) for value in (1, 2, 3)]
        async with asyncio.timeout(10):
            assert [(await task)[0, 0] for task in tasks[:2]] == [1, 2]
        assert not tasks[2].done()
        turns.release()
        assert (await tasks[2])[0, 0] == 3

    asyncio.run(main())


def test_what_is_not_run_is_not_counted_as_a_run() -> None:
    runs: list[int] = []

    async def ask() -> None:
        graph = Graph()
        options: dict[str, Any] = {"max_batch": 8, "max_delay": 0, "max_queue": 64}
        subject = Batcher(graph.run, graph.check, observe=lambda images, _: runs.append(images), **options)
        for pixels, deadline in ((request(-1), float("inf")), (request(1), time.monotonic() - 1)):
            with pytest.raises(ServeError):
                await subject.submit(pixels, deadline)
        await asyncio.gather(subject.submit(request(1, 2)), subject.submit(request(-1)), return_exceptions=True)
        await asyncio.to_thread(subject.close)

    asyncio.run(ask())
    assert runs == [2]
