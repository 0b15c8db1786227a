"""Several processes behind the same ports: all answer, a dead one is replaced, a stop reaches every one."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import urllib.request
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from servers import our_server
from tiny import images, make_bundle, reference

from genaf_sdk.export.serve import processes
from genaf_sdk.export.serve.__main__ import UNUSABLE, main
from genaf_sdk.export.serve.settings import Settings

pytestmark = [
    pytest.mark.multiprocess,
    pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="this system does not share ports"),
]


def ask(port: int) -> list[float]:
    pixels = images(1)
    content = {"name": "pixels", "shape": list(pixels.shape), "datatype": "FP32", "data": pixels.ravel().tolist()}
    body = json.dumps({"inputs": [content]}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/tiny/infer", body)
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[float] = json.load(answer)["outputs"][0]["data"]
    return found


def events(log: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line for line in lines if line["event"] == name]


def eventually(log: Path, name: str, count: int) -> list[dict[str, Any]]:
    until = time.monotonic() + 120
    while len(found := events(log, name)) < count and time.monotonic() < until:
        time.sleep(0.1)
    assert len(found) >= count, log.read_text()
    return found


def test_a_dead_process_is_replaced_and_a_stop_reaches_all(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with our_server(str(bundle), "--workers", "2", "--drain", "0", log=log, seconds=120) as (port, _, parent):
        eventually(log, "ready", 2)
        expected = reference(images(1))[0].tolist()
        assert all(ask(port) == pytest.approx(expected, abs=1e-4) for _ in range(10))
        first, second = events(log, "workers")[0]["processes"]
        os.kill(first, signal.SIGKILL)
        eventually(log, "ready", 3)
        assert [line["status"] for line in events(log, "worker lost")] == [-signal.SIGKILL]
        assert all(ask(port) == pytest.approx(expected, abs=1e-4) for _ in range(10))
        workers = psutil.Process(parent.pid).children(recursive=True)
        assert second in {worker.pid for worker in workers}
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(60) == 0
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert len(events(log, "stopped")) == 2


@pytest.mark.parametrize("place", ["while one starts", "between two"])
def test_a_stop_while_processes_start_reaches_those_to_come(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    started: list[SpawnProcess] = []
    start = SpawnProcess.start

    def stopped_at_the_first(process: SpawnProcess) -> None:
        start(process)
        started.append(process)
        if place == "while one starts":
            os.kill(os.getpid(), signal.SIGTERM)

    def born(parent: processes._Parent) -> None:
        begin(parent)
        os.kill(os.getpid(), signal.SIGTERM)

    begin = processes._Parent._start
    if place == "between two":
        monkeypatch.setattr(processes._Parent, "_start", born)
    monkeypatch.setattr(SpawnProcess, "start", stopped_at_the_first)
    assert processes.supervise(3, _sleep, Settings(http_port=0, grpc_port=None)) == 0
    assert [process.exitcode for process in started] == [-signal.SIGTERM]


def _sleep(_settings: Settings) -> int:
    time.sleep(60)
    return 1


def test_processes_end_with_their_parent(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with our_server(str(bundle), "--workers", "2", "--drain", "0", log=log, seconds=120) as (_, _, parent):
        eventually(log, "ready", 2)
        workers = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
        assert psutil.wait_procs(workers, timeout=60)[1] == []


def test_what_cannot_be_served_ends_all_of_them(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = make_bundle(tmp_path / "damaged")
    (damaged / "model.onnx").write_bytes(b"nothing")
    assert main([str(damaged), "--workers", "2", "--http-port", "0", "--grpc-port", "-1"]) == UNUSABLE
    assert "SHA-256" in capfd.readouterr().err
