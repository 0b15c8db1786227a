"""Work on executors: failures and lost workers cost their own cell alone, wherever the cells run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
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
    ran, left = list[int](), threading.Event()

    def cell(number: int) -> None:
        assert number == 0 or left.wait(60)
        ran.append(number)

    def first_of(executor: ThreadPoolExecutor) -> None:
        with Cells[Any](executor) as cells:
            for number in range(20):
                cells.submit(partial(cell, number))
            for _ in cells:
                raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(KeyboardInterrupt):
            first_of(executor)
        left.set()
    assert ran in ([0], [0, 1]), "the second one may have begun"


@pytest.mark.multiprocess
def test_processes_end_with_the_one_that_compares(tmp_path: Path) -> None:
    """However that ends, and whatever they are working on."""
    program = """
import os, time
from genaf_sdk.cells import local_processes
if __name__ == "__main__":
    with local_processes(2) as pool:
        pool.submit(os.getpid).result()
        for _ in range(2):
            pool.submit(time.sleep, 600)
        print("working", flush=True)
        time.sleep(600)
"""
    (tmp_path / "program.py").write_text(program)
    with subprocess.Popen([sys.executable, tmp_path / "program.py"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "working\n"
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(workers) >= 2
    left = psutil.wait_procs(workers, timeout=300)[1]  # one may still be starting
    for each in left:
        each.kill()
    assert left == []


def test_a_pool_of_one_is_this_process() -> None:
    with local_processes(1) as found:
        assert found is None
    assert multiprocessing.active_children() == []
