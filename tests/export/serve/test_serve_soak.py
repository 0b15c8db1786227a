"""Many clients, many of them rude, and a SIGTERM among them: nothing accepted is lost, nothing breaks or grows."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tritonclient.grpc
from servers import our_server
from tiny import images, make_bundle, reference
from tritonclient.utils import InferenceServerException

if TYPE_CHECKING:
    import subprocess

PIXELS = images(2)
EXPECTED = reference(PIXELS)
KINDS = ("good",) * 10 + ("grpc",) * 3 + ("hang up", "hang up early", "garbage", "oversized", "NaN", "bad shape")


def message(pixels: np.ndarray, *, shape: list[int] | None = None) -> bytes:
    entry = {"name": "pixels", "datatype": "FP32", "shape": shape or list(pixels.shape)}
    head = json.dumps(
        {
            "inputs": [{**entry, "parameters": {"binary_data_size": pixels.nbytes}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
        }
    ).encode()
    lines = ["POST /v2/models/tiny/infer HTTP/1.1", "Host: localhost", f"Inference-Header-Content-Length: {len(head)}"]
    lines += [f"Content-Length: {len(head) + pixels.nbytes}", "", ""]
    return "\r\n".join(lines).encode() + head + pixels.tobytes()


MESSAGES = {
    "good": message(PIXELS),
    "NaN": message(np.full_like(PIXELS, np.nan)),
    "bad shape": message(PIXELS, shape=[2, 3, 32, 31]),
    "oversized": message(images(40)),
    "garbage": b"\x16\x03\x01\x02\x00" + random.Random(0).randbytes(300) + b"\r\n\r\n",
}
ANSWERS = {"good": {200}, "NaN": {400}, "bad shape": {400}, "oversized": {413}, "garbage": {400}}


@dataclass
class Record:
    """What the clients saw."""

    left: int
    stopping: bool = False
    statuses: Counter[tuple[str, object]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def count(self, kind: str, status: object) -> None:
        with self.lock:
            self.statuses[kind, status] += 1


def answer(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """Read one answer: status, head, body; status 0 where the server closed the connection instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return 0, b"", b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    while len(body) < length:
        part = connection.recv(65536)
        if not part:
            return 0, b"", b""
        body += part
    return int(head.split()[1]), head.lower(), body


class Client:
    """One client that talks HTTP by hand and gRPC by tritonclient, politely or not, as chance has it."""

    def __init__(self, ports: tuple[int, int], seed: int, record: Record) -> None:
        self.ports, self.record, self.chance = ports, record, random.Random(seed)
        self.connection: socket.socket | None = None

    def run(self) -> None:
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{self.ports[1]}") as rpc:
            while self.record.take():
                kind = self.chance.choice(KINDS)
                if kind == "grpc":
                    self.call_grpc(rpc)
                elif not self.call_http(kind):
                    break
        self.disconnect()

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def call_grpc(self, rpc: tritonclient.grpc.InferenceServerClient) -> None:
        entry = tritonclient.grpc.InferInput("pixels", list(PIXELS.shape), "FP32").set_data_from_numpy(PIXELS)
        patience = self.chance.choice([None, None, 0.001])  # the last one cancels
        try:
            logits = rpc.infer("tiny", [entry], client_timeout=patience).as_numpy("logits")
            self.record.count("grpc", np.allclose(logits, EXPECTED, atol=1e-5))
        except InferenceServerException as error:
            self.record.count("grpc", error.status())

    def call_http(self, kind: str) -> bool:
        """Send one request; return whether there is any use in another."""
        try:
            self.connection = self.connection or socket.create_connection(("127.0.0.1", self.ports[0]), timeout=30)
        except ConnectionRefusedError:
            return False
        if kind.startswith("hang up"):
            self.hang_up(MESSAGES["good"] if kind == "hang up" else None)
            self.record.count(kind, 0)
            return True
        sent = False
        try:
            self.connection.sendall(MESSAGES[kind])
            sent = True
            status, head, body = answer(self.connection)
        except (ConnectionError, TimeoutError) as error:
            self.disconnect()
            self.record.count(kind, type(error).__name__)
            if sent and kind == "good":
                self.record.wrong.append(f"lost: {error!r}")
            return True
        self.record.count(kind, status)
        self.judge(kind, status, body)
        if b"connection: close" not in head and status:
            return True
        self.disconnect()
        return not (kind == "good" and self.record.stopping)  # told to go elsewhere, as a load balancer is

    def hang_up(self, message: bytes | None) -> None:
        """Send a request, or a part of one, and reset the connection."""
        whole = MESSAGES["good"]
        if self.connection is None:
            return
        with contextlib.suppress(ConnectionError):  # where the server was faster
            self.connection.sendall(message or whole[: self.chance.randrange(1, len(whole))])
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.disconnect()

    def judge(self, kind: str, status: int, body: bytes) -> None:
        if status not in ANSWERS[kind]:
            self.record.wrong.append(f"{kind}: {status} {body[:200]!r}")
        elif kind == "good":
            logits = np.frombuffer(body[-EXPECTED.nbytes :], "<f4").reshape(EXPECTED.shape)
            if not np.allclose(logits, EXPECTED, atol=1e-5):
                self.record.wrong.append("somebody else's answer")


def resident(process: subprocess.Popen[bytes]) -> float:
    """Memory of a process in MiB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def soak(tmp_path: Path, count: int, clients: int) -> Counter[tuple[str, object]]:
    """Send ``count`` requests, then a SIGTERM while the clients go on, and check everything."""
    more = count // 10
    record, log = Record(left=count + more), tmp_path / "log"
    options = ["--max-batch", "8", "--max-body", str(2**18), "--threads", "1", "--drain", "2"]
    until = time.monotonic() + 300
    with our_server(str(make_bundle(tmp_path / "tiny")), *options, log=log) as (http, rpc, process):
        threads = [
            threading.Thread(target=Client((http, rpc), seed, record).run, daemon=True) for seed in range(clients)
        ]
        for thread in threads:
            thread.start()
        early = 0.0
        while record.left > more:
            assert time.monotonic() < until, "too slow"
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.01)
            if not early and record.left < count * 0.7:
                early = resident(process)
        late = resident(process)
        record.stopping = True
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert process.wait(60) == 0
    assert record.wrong == []
    rpc_ends = {status for kind, status in record.statuses if kind == "grpc"}
    assert rpc_ends <= {True, "StatusCode.DEADLINE_EXCEEDED", "StatusCode.UNAVAILABLE"}
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert not [event for event in events if event["level"] == "error" or event.get("status") in ("500", "INTERNAL")]
    assert events[-1]["event"] == "stopped"
    assert events[-1]["accepted"] == events[-1]["answered"] + events[-1]["cancelled"]
    assert late - early < 0.1 * early + 8, f"{early:.0f} MiB became {late:.0f} MiB"
    return record.statuses


def test_a_short_siege(tmp_path: Path) -> None:
    statuses = soak(tmp_path, 1000, 16)
    assert statuses["good", 200] > 300
    assert statuses["grpc", True] > 50
    assert statuses["oversized", 413] > 10


@pytest.mark.slow
def test_a_long_siege(tmp_path: Path) -> None:
    statuses = soak(tmp_path, 10_000, 32)
    assert statuses["good", 200] > 3000
