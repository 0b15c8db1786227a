"""How much the server costs: requests a second against a real tritonserver and against onnxruntime alone.

    python benchmarks/serving.py [--tritonserver ENVIRONMENT] [--only overhead|resnet|binding|workers]

All servers run on this machine, one at a time, in turns, and so does the client: 8 connections, more where a graph is
to be saturated, each with one request under way; binary tensors. Ratios are of medians over the rounds of one run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import psutil
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "export" / "serve"))
from servers import BACKEND, our_server, tritonserver

from genaf_sdk.export.serve import OnnxClassifier
from genaf_sdk.export.triton import write_triton_repository

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTIONS = 8
SATURATING = (8, 16, 32)
"""Connections that are tried to saturate the graph."""
BATCHES = (1, 4, 8, 16, 32)
WORKERS = (1, 2, 4)


def tiny_model(path: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Write a classifier of next to no work, a mean and a linear layer, and return its weight and bias."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((3, 10)).astype(np.float32), np.zeros(10, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return weight, bias


def resnet18(path: Path) -> None:
    import torch
    import torchvision

    torch.onnx.export(
        torchvision.models.resnet18().eval(),
        (torch.rand(2, 3, 224, 224),),
        path,
        dynamo=True,
        external_data=False,
        input_names=["pixels"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )


def infer_request(model: str, size: int, identity: str = "") -> bytes:
    """Return the bytes of one binary request of one image."""
    pixels = np.random.default_rng(0).random((1, 3, size, size), np.float32).tobytes()
    entry = {"name": "pixels", "shape": [1, 3, size, size], "datatype": "FP32"}
    head = json.dumps(
        {
            "inputs": [{**entry, "parameters": {"binary_data_size": len(pixels)}}],
            "outputs": [{"name": "logits", "parameters": {"binary_data": True}}],
            **({"id": identity} if identity else {}),
        }
    ).encode()
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        "Host: localhost",
        f"Inference-Header-Content-Length: {len(head)}",
        f"Content-Length: {len(head) + len(pixels)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + head + pixels


def load(
    port: int,
    requests: Sequence[bytes],
    seconds: float,
    *,
    connections: int = CONNECTIONS,
    rate: float | None = None,
) -> tuple[float, list[float]]:
    """Send for some seconds and return requests a second and every latency; ``rate`` spaces the requests out."""
    latencies: list[list[float]] = [[] for _ in range(connections)]
    start = time.perf_counter() + 0.2

    def client(number: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            due = start + (number / rate if rate else 0)
            for request in itertools.cycle(requests):
                time.sleep(max(0.0, due - time.perf_counter()))
                began = due if rate else time.perf_counter()  # a request that starts late has waited
                if began >= start + seconds:
                    return
                exchange(connection, request)
                latencies[number].append(time.perf_counter() - began)
                due += connections / rate if rate else 0

    threads = [threading.Thread(target=client, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = sorted(value for part in latencies for value in part)
    return len(together) / (time.perf_counter() - start), together


def exchange(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the server closed the connection")
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{head.decode()} {body[:200]!r}")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)


def overhead(folder: Path, rounds: int, seconds: float, environment: Path | None) -> None:
    repository = folder / "repository"
    for size in (32, 224):
        weight, bias = tiny_model(folder / f"tiny{size}.onnx", size)
        model = write_triton_repository(folder / f"tiny{size}.onnx", repository)
        (model / "1" / "model.onnx").unlink()
        (model / "1" / "model.py").write_text(BACKEND)
        np.savez(model / "1" / "weights.npz", weight=weight, bias=bias)
        config = (model / "config.pbtxt").read_text().replace('backend: "onnxruntime"', 'backend: "python"')
        (model / "config.pbtxt").write_text(config)
    with ExitStack() as stack:
        ours, _, _ = stack.enter_context(
            our_server(*(str(folder / f"tiny{size}.onnx") for size in (32, 224)), log=folder / "ours.log")
        )
        ports = {"ours": ours}
        if environment is not None:
            ports["triton"], _ = stack.enter_context(tritonserver(environment, repository, log=folder / "triton.log"))
        cases = {f"{size} px": (infer_request(f"tiny{size}", size),) for size in (32, 224)}
        cases["32 px, every request with an id of its own"] = tuple(
            infer_request("tiny32", 32, f"request {number}") for number in range(1000)
        )
        for case, requests in cases.items():
            found: dict[str, list[float]] = {name: [] for name in ports}
            for _ in range(rounds):
                for name, port in ports.items():
                    found[name].append(load(port, requests, seconds)[0])
            medians = {name: statistics.median(values) for name, values in found.items()}
            line = ", ".join(f"{name} {median:.0f} req/s" for name, median in medians.items())
            ratio = f", ours/triton {medians['ours'] / medians['triton']:.2f}" if "triton" in medians else ""
            print(f"tiny model, {case}: {line}{ratio}", flush=True)
    classifier = OnnxClassifier(folder / "tiny224.onnx", provider="cpu")
    image = np.zeros((1, 3, 224, 224), np.float32)
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + 1:
        classifier.run(image)
        count += 1
    print(f"tiny model, 224 px: the graph itself {1e3 / count:.3f} ms")


def resnet(folder: Path, rounds: int, seconds: float) -> None:
    """ResNet-18 at 224 px: saturation against onnxruntime alone, by turns, then latency at half of it."""
    path = folder / "resnet18.onnx"
    resnet18(path)
    alone: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    served: dict[int, list[float]] = {connections: [] for connections in SATURATING}
    classifier = OnnxClassifier(path, provider="cpu", max_batch=max(BATCHES))
    with our_server(str(path), log=folder / "resnet.log") as (port, _, _):
        requests = (infer_request("resnet18", 224),)
        for _ in range(rounds):
            for batch, speeds in alone.items():
                speeds.append(raw_throughput(classifier, batch, seconds))
            for connections, speeds in served.items():
                speeds.append(load(port, requests, seconds, connections=connections)[0])
        raw = max(statistics.median(speeds) for speeds in alone.values())
        for batch, speeds in alone.items():
            print(f"ResNet-18, 224 px: onnxruntime alone, batch {batch}: {statistics.median(speeds):.1f} images/s")
        for connections, speeds in served.items():
            rate = statistics.median(speeds)
            share = f"{rate / raw:.2f} of the best"
            print(f"ResNet-18, 224 px: served, {connections} connections: {rate:.1f} images/s, {share}")
        rate = max(statistics.median(speeds) for speeds in served.values())
        at_half = [load(port, requests, 3 * seconds, rate=rate / 2)[1] for _ in range(rounds)]
        p50, p99 = (1e3 * statistics.median(np.quantile(each, share) for each in at_half) for share in (0.5, 0.99))
        requests_each = f"medians of {rounds} rounds of {len(at_half[0])} requests"
        print(f"ResNet-18, half load: p50 {p50:.1f} ms, p99 {p99:.1f} ms, ratio {p99 / p50:.2f}, {requests_each}")


def workers(folder: Path, rounds: int, seconds: float) -> None:
    """One to four processes behind the same ports, in turns: requests a second, and memory that is theirs alone."""
    model = folder / "tiny.onnx"
    tiny_model(model, 32)
    speeds: dict[int, list[float]] = {count: [] for count in WORKERS}
    memory: dict[int, float] = {}
    with ExitStack() as stack:
        ports = {}
        for count in WORKERS:
            arguments = (str(model), "--workers", str(count), "--threads", "1", "--drain", "0")
            log = folder / f"{count}.log"
            ports[count], _, process = stack.enter_context(our_server(*arguments, log=log, seconds=180))
            while log.read_text().count('"ready"') < count:
                time.sleep(0.1)
            parent = psutil.Process(process.pid)
            memory[count] = sum(each.memory_full_info().pss for each in (parent, *parent.children(recursive=True)))
        for _ in range(rounds):
            for count, port in ports.items():
                requests = (infer_request("tiny", 32),)
                speeds[count].append(load(port, requests, seconds, connections=SATURATING[-1])[0])
    for count in WORKERS:
        rate = statistics.median(speeds[count])
        print(f"tiny, 32 px, {count} processes: {rate:.0f} requests/s, {memory[count] / 2**20:.0f} MiB in all")


def raw_throughput(classifier: OnnxClassifier, batch: int, seconds: float) -> float:
    pixels = np.random.default_rng(0).random((batch, 3, 224, 224), np.float32)
    classifier.run(pixels)
    began, images = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        images += len(classifier.run(pixels))
    return images / (time.perf_counter() - began)


def binding(folder: Path, rounds: int) -> None:
    """IO binding against plain runs on the CPU, batch by batch in turns, each on one thread."""
    tiny_model(folder / "tiny224.onnx", 224)
    resnet18(folder / "resnet18.onnx")
    for name, repeats in (("tiny224", 20), ("resnet18", 1)):
        source = folder / f"{name}.onnx"
        ways = {way: OnnxClassifier(source, provider="cpu", threads=1, binding=way) for way in (False, True)}
        for batch in (1, CONNECTIONS):
            pixels = np.random.default_rng(0).random((batch, 3, 224, 224), np.float32)
            found: dict[bool, list[float]] = {way: [] for way in ways}
            for _ in range(10 * rounds * repeats):
                for way, classifier in ways.items():
                    began = time.perf_counter()
                    classifier.run(pixels)
                    found[way].append(1e3 * (time.perf_counter() - began))
            plain, bound = (statistics.median(found[way]) for way in (False, True))
            print(f"{name}, batch {batch}: plain {plain:.3f} ms, bound {bound:.3f} ms, ratio {bound / plain:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tritonserver", type=Path, help="environment with nvidia-pytriton")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--only", choices=("overhead", "resnet", "binding", "workers"))
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as temporary:
        if options.only in (None, "overhead"):
            overhead(Path(temporary), options.rounds, options.seconds, options.tritonserver)
        if options.only in (None, "resnet"):
            resnet(Path(temporary), options.rounds, options.seconds)
        if options.only in (None, "binding"):
            binding(Path(temporary), options.rounds)
        if options.only in (None, "workers"):
            workers(Path(temporary), options.rounds, options.seconds)


if __name__ == "__main__":
    main()
