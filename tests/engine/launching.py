"""Starting a script as several gloo processes on the CPU, as ``accelerate launch`` does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(script: Path, *arguments: str, count: int) -> list[subprocess.Popen[str]]:
    """Start ``count`` processes that find each other."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    shared = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "ACCELERATE_USE_CPU": "1"}
    started = []
    for rank in range(count):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
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
    """Wait for all of them and return what they printed."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
