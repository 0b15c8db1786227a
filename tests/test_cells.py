"""Work on executors: failures and lost workers cost their own cell alone, wherever the cells run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch

from genaf_sdk.cells import Cells, LostWorkerError, local_processes


def named(name: str) -> str:
    return name


def threads(name: str) -> int:
    return torch.get_num_threads()


def fails(name: str) -> None:
    raise ValueError(name)


def is_killed(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def pool() -> Iterator[ProcessPoolExecutor]:
    with local_processes(2) as found:
        assert found is not None
        yield found


def outcomes(executor: Any, *submitted: Any) -> dict[str, Any]:
    with Cells[Any](executor) as cells:
        for cell in submitted:
            cells.submit(cell)
        return {cell.args[0]: result for cell, result in cells}


@pytest.mark.multiprocess
def test_a_lost_worker_costs_its_cell_alone(pool: ProcessPoolExecutor) -> None:
    others = [partial(named, f"other {number}") for number in range(3)]
    found = outcomes(pool, others[0], partial(is_killed, "killed"), partial(fails, "own fault"), *others[1:])
    assert isinstance(found.pop("killed"), LostWorkerError)
    assert str(found.pop("own fault")) == "own fault"
    assert found == {name: name for name in ("other 0", "other 1", "other 2")}


@pytest.mark.multiprocess
def test_cells_may_lead_to_more_and_share_the_threads(pool: ProcessPoolExecutor) -> None:
    found = {}
    with Cells[Any](pool) as cells:
        cells.submit(partial(named, "first"))
        for cell, result in cells:
            found[cell.args[0]] = result
            if result == "first":
                cells.submit(partial(threads, "second"))
    assert found == {"first": "first", "second": max(1, torch.get_num_threads() // 2)}


def test_a_broken_executor_of_another_kind_costs_what_it_had() -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            future = super().submit(fn)
            future.result()
            future._exception = BrokenExecutor("gone")
            return future

    with Broken(1) as executor:
        found = outcomes(executor, partial(named, "one"), partial(named, "two"))
    assert all(isinstance(error, LostWorkerError) for error in found.values())
    assert list(found) == ["one", "two"]


def test_cells_of_one_process_take_turns() -> None:
    inside, most = [0], [0]
    lock = threading.Lock()

    def alone(name: str) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        threading.Event().wait(0.02)
        with lock:
            inside[0] -= 1

    with ThreadPoolExecutor(4) as executor:
        found = outcomes(executor, *(partial(alone, str(number)) for number in range(4)))
    assert list(found.values()) == [None] * 4
    assert most == [1]


def test_leaving_early_runs_nothing_more() -> None:
    ran: list[int] = []

    def first_of(executor: ThreadPoolExecutor) -> None:
        with Cells[Any](executor) as cells:
            for number in range(20):
                cells.submit(partial(ran.append, number))
            for _ in cells:
                raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        first_of(executor)
    assert len(ran) < 20


def test_a_pool_of_one_is_this_process() -> None:
    with local_processes(1) as found:
        assert found is None
    assert multiprocessing.active_children() == []
