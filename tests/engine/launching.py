"""Starting a script as several gloo processes on the CPU, as ``accelerate launch`` does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.distributed import TCPStore

ROOT = Path(__file__).parents[2]
GRACE = 60.0
"""Seconds that the others have to end after a process has failed."""
_stores: list[TCPStore] = []
"""Meeting places of all that was started, as an agent of torchrun keeps one: they are there until this process ends."""


def start(script: Path, *arguments: str, count: int) -> list[subprocess.Popen[str]]:
    """Start ``count`` processes that find each other."""
    # Held from here on: a port that is only found free may be another's by the time that the first process takes it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    _stores.append(store)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "ACCELERATE_USE_CPU": "1", "PYTHONFAULTHANDLER": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, **meeting}
        ranked = {name: str(value) for name, value in place.items()} if count > 1 else {}
        command = [sys.executable, str(script), *arguments]
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, **shared, **ranked},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(processes: list[subprocess.Popen[str]], timeout: float = 240) -> list[str]:
    """Wait for all of them and return what they printed; where one does not end, all fail with where it stands."""
    hung = []
    with ThreadPoolExecutor(len(processes)) as pool:
        printed = [pool.submit(process.communicate) for process in processes]
        last = time.monotonic() + timeout
        while running := [process for process, output in zip(processes, printed, strict=True) if not output.done()]:
            if any(process.returncode not in (0, None) for process in processes):
                last = min(last, time.monotonic() + GRACE)
            if time.monotonic() > last:
                for process in running:
                    process.send_signal(signal.SIGABRT)  # of which faulthandler tells the place
                hung = running
                break
            time.sleep(0.05)
        texts = [output.result()[0] for output in printed]
    if hung:
        told = "\n".join(f"-- process {rank}\n{text}" for rank, text in enumerate(texts))
        pytest.fail(f"{len(hung)} of {len(processes)} processes did not end within {timeout:.0f} s:\n{told}")
    return texts
