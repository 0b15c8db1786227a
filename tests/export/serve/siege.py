"""Attacks on a server of this machine, one for each of its limits, and what a bystander sees meanwhile.

Every attack is bounded: it takes the ports of a server, does its worst for some seconds, and returns. Nothing here
listens, and nothing but the loopback interface is talked to.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
from PIL import Image
from tritonclient.grpc import service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 2**20
INFER = "/v2/models/tiny/infer"
SIZE = 32


@dataclass(frozen=True)
class Target:
    """A server: its ports, its process, and the largest body, gRPC message and picture that it says it takes."""

    http: int
    rpc: int
    process: int
    max_body: int = 8 * MIB
    max_message: int = 8 * MIB
    max_pixels: int = 25_000_000


# What is sent.


def segment(marker: int, content: bytes) -> bytes:
    return bytes((255, marker)) + struct.pack(">H", len(content) + 2) + content


def scans_jpeg(scans: int, side: int = 5000) -> bytes:
    """A gray progressive JPEG of ``side`` x ``side`` pixels: each scan says in some 40 bytes that nothing changes."""
    bits = ("0" + format(27306 - 2**14, "014b")) * 15 + "1" * 7
    runs = int(bits, 2).to_bytes(29, "big").replace(b"\xff", b"\xff\0")
    head = segment(0xDB, bytes(1) + b"\1" * 64)
    head += segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0")
    head += segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    first, again = (segment(0xDA, bytes((1, 1, 0, 1, 63, low))) + runs for low in (0x01, 0x10))
    return b"\xff\xd8" + head + first + again * (scans - 1) + b"\xff\xd9"


def wide_png(width: int, height: int) -> bytes:
    """A PNG of so many transparent pixels, some bytes for every thousand of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, rows = zlib.compressobj(6), bytearray()
    for _ in range(height):
        rows += packer.compress(bytes(1 + 4 * width))
    rows += packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", bytes(rows)) + chunk(b"IEND", b"")


def picture(kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A small picture; of four bands, the last is the brightest."""
    file = io.BytesIO()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 200, (64, 64, 3), np.uint8)).convert(mode)
    noise.save(file, kind)
    return file.getvalue()


def tensor_request(**extra: object) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a good binary request; ``extra`` goes into its JSON part."""
    pixels = np.full((1, 3, SIZE, SIZE), 0.5, np.float32).tobytes()
    entry = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE]}
    entry["parameters"] = {"binary_data_size": len(pixels)}
    head = json.dumps({"inputs": [entry], **extra}).encode()
    return head + pixels, {"Inference-Header-Content-Length": str(len(head))}


# How it is sent.


def ask(
    port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Return status and body of one answer; status 0 where the server closed the connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def many(count: int, task: Callable[[], object]) -> list[object]:
    """Do the same so many times at once and return what came."""
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(task())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextlib.contextmanager
def connections(port: int, count: int, greeting: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold so many connections, each of which has said ``greeting`` and nothing else."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            with contextlib.suppress(OSError):
                made.append(socket.create_connection(("127.0.0.1", port), timeout=20))
                if greeting:
                    made[-1].sendall(greeting)
        yield made
    finally:
        for each in made:
            each.close()


def closed(connection: socket.socket, seconds: float) -> bool:
    """Return whether the server closes a connection in time, whatever it says before."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection.settimeout(max(until - time.monotonic(), 0.01))
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


def rpc(
    target: Target, method: str, message: bytes, headers: tuple[tuple[str, str], ...] = (), *, count: int = 1
) -> list[str]:
    """Call a method so many times at once, with a message as it is; return the names of the statuses."""
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{target.rpc}", options=options) as channel:
        call = channel.unary_unary(method)
        futures = [call.future(message, timeout=30, metadata=headers) for _ in range(count)]
        return [future.code().name for future in futures]


def infer_message(**changes: object) -> bytes:
    entry = pb.ModelInferRequest.InferInputTensor(name="pixels", datatype="FP32", shape=[1, 3, SIZE, SIZE])
    request = pb.ModelInferRequest(model_name="tiny", inputs=[entry], **changes)
    message: bytes = request.SerializeToString()
    return message


RPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


# The attacks.


def scans(target: Target) -> None:
    body = scans_jpeg(483)
    many(6, lambda: ask(target.http, "POST", "/classify", body))


def huge_pictures(target: Target) -> None:
    side = int(target.max_pixels**0.5)
    body = wide_png(side, side)
    many(6, lambda: ask(target.http, "POST", "/classify", body))


def ids(target: Target) -> None:
    for number in range(20):
        body, headers = tensor_request(id=f"{number} " + "x" * (target.max_body - MIB))
        ask(target.http, "POST", INFER, body, headers)


def long_heads(target: Target) -> None:
    text = b"[" + b"[]," * ((target.max_body - 4096) // 3) + b"[]]"
    many(2, lambda: ask(target.http, "POST", INFER, text, {"Inference-Header-Content-Length": str(len(text) - 2)}))


def long_json(target: Target) -> None:
    text = b'{"inputs": [' + b"[]," * ((target.max_body - 4096) // 3) + b"[]]}"
    many(4, lambda: ask(target.http, "POST", INFER, text))


def uneven_texts(target: Target) -> None:
    entry = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE], "data": ["x" * 30_000] + [""] * 6000}
    body = json.dumps({"inputs": [entry]}).encode()
    for _ in range(5):
        ask(target.http, "POST", INFER, body)


def endless_heads(target: Target, most: int = 32 * MIB) -> None:
    for start in (b"GET / HTTP/1.1\r\n", b"GET /"):
        line = b"x-line: " + b"y" * 1000 + b"\r\n" if start.endswith(b"\n") else b"z" * 1010
        with connections(target.http, 1, start) as (connection,), contextlib.suppress(OSError):
            for _ in range(most // len(line)):
                connection.sendall(line)


def pipelines(target: Target) -> None:
    flood = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000
    with connections(target.http, 4) as made:
        for each in made:
            with contextlib.suppress(OSError):
                each.settimeout(5)
                each.sendall(flood)


def silence(target: Target, count: int = 150, seconds: float = 1.0) -> None:
    with connections(target.http, count), connections(target.http, count, b"GET /v2 HTTP/1.1\r\nx: "):
        time.sleep(seconds)


def rpc_silence(target: Target, count: int = 100, seconds: float = 1.0) -> None:
    with connections(target.rpc, count):
        time.sleep(seconds)


def rpc_bodies(target: Target) -> None:
    message = infer_message(raw_input_contents=[bytes(target.max_body - MIB)])
    for method in (RPC_INFER, "/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Check"):
        rpc(target, method, message, count=16)


def rpc_messages(target: Target) -> None:
    """Messages that the server receives whole, as they are no larger than a model takes."""
    message = infer_message(raw_input_contents=[bytes(target.max_message)])
    for _ in range(3):
        rpc(target, RPC_INFER, message, count=16)


def rpc_numbers(target: Target) -> None:
    count = (target.max_body - MIB) // 4
    contents = pb.InferTensorContents(fp32_contents=np.full(count, 0.5, np.float32))
    entry = pb.ModelInferRequest.InferInputTensor(
        name="pixels", datatype="FP32", shape=[1, 3, SIZE, SIZE], contents=contents
    )
    rpc(target, RPC_INFER, pb.ModelInferRequest(model_name="tiny", inputs=[entry]).SerializeToString(), count=4)


def rpc_bombs(target: Target) -> None:
    """Two bytes an empty output, which would be fifty of an object."""
    rpc(target, RPC_INFER, b"\x32\x00" * ((target.max_body - MIB) // 2), count=4)


def deadlines(target: Target) -> None:
    body, headers = tensor_request(parameters={"timeout": 1})
    for _ in range(10):
        many(16, lambda: ask(target.http, "POST", INFER, body, headers))


def refusals(target: Target) -> None:
    for _ in range(200):
        ask(target.http, "GET", "/v2/models/nothing")


ATTACKS: dict[str, Callable[[Target], None]] = {
    each.__name__: each
    for each in (
        scans,
        huge_pictures,
        ids,
        long_heads,
        long_json,
        uneven_texts,
        endless_heads,
        pipelines,
        silence,
        rpc_silence,
        rpc_bodies,
        rpc_messages,
        rpc_numbers,
        rpc_bombs,
        deadlines,
        refusals,
    )
}


# What others see.


def resident(process: int) -> float:
    """Memory of a process in MiB, without its children."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        found += [int(number) for number in (task / "children").read_text().split()]
    return found


def processor_seconds(process: int) -> float:
    """Time that a process and its children have taken on the processor."""
    total = 0.0
    for each in (process, *children(process)):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def storm(name: str, target: Target, *, seconds: float = 120, niceness: int = 10) -> bool:
    """Attack from another process: the bystander must not wait for the interpreter of those who attack.

    It is a polite one: who attacks from elsewhere does not take the server's processor from it.

    Returns:
        Whether the attack was over in so many seconds; else it was ended.
    """
    command = ["nice", "-n", str(niceness), sys.executable, __file__, name, json.dumps(asdict(target))]
    try:
        subprocess.run(command, check=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@dataclass
class Bystander:
    """Asks for the server's health every 50 ms on a connection of its own, and looks at its memory."""

    target: Target
    latencies: list[float] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    peak: float = 0.0

    def __enter__(self) -> Bystander:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            began = time.perf_counter()
            status, _ = ask(self.target.http, "GET", "/v2/health/live")
            self.latencies.append(time.perf_counter() - began)
            if status != 200:
                self.failures.append(status)
            with contextlib.suppress(OSError):
                self.peak = max(self.peak, resident(self.target.process))


if __name__ == "__main__":
    ATTACKS[sys.argv[1]](Target(**json.loads(sys.argv[2])))
