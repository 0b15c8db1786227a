"""How much the server costs: requests a second against a real tritonserver and against onnxruntime alone.

    python benchmarks/serving.py [--tritonserver ENVIRONMENT] [--only overhead|saturation|binding|workers]

All servers run on this machine, one at a time, in turns, and so does the client: 8 connections, more where a graph is
to be saturated, each with one request under way; binary tensors. Ratios are of medians over the rounds of one run.
Images a second depend on who else uses the machine; the processor time of an image, shown beside them, does so less.
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


def graph(name: str, path: Path) -> None:
    """Write an architecture of torchvision, with random weights, as a graph of 224 x 224 pixels."""
    import torch
    import torchvision

    torch.onnx.export(
        getattr(torchvision.models, name)().eval(),
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


def saturation(folder: Path, name: str, rounds: int, seconds: float) -> None:
    """A graph at 224 px: saturation against onnxruntime alone, by turns, then latency at half of it."""
    path = folder / f"{name}.onnx"
    graph(name, path)
    alone: dict[int, list[tuple[float, float]]] = {batch: [] for batch in BATCHES}
    served: dict[int, list[tuple[float, float]]] = {connections: [] for connections in SATURATING}
    classifier = OnnxClassifier(path, provider="cpu", max_batch=max(BATCHES))
    with our_server(str(path), log=folder / f"{name}.log") as (port, _, process):
        requests = (infer_request(name, 224),)
        for _ in range(rounds):
            for batch, found in alone.items():
                found.append(raw_throughput(classifier, batch, seconds))
            for connections, found in served.items():
                before = processor_seconds(process.pid)
                rate, latencies = load(port, requests, seconds, connections=connections)
                found.append((rate, 1e3 * (processor_seconds(process.pid) - before) / len(latencies)))
        raw = max(statistics.median(rate for rate, _ in found) for found in alone.values())
        least = min(statistics.median(taken for _, taken in found) for found in alone.values())
        ways = {f"onnxruntime alone, batch {batch}": found for batch, found in alone.items()}
        ways |= {f"served, {connections} connections": found for connections, found in served.items()}
        for way, found in ways.items():
            rate, taken = (statistics.median(values) for values in zip(*found, strict=True))
            shares = (
                f"{rate / raw:.2f} of the best alone; {taken:.1f} CPU ms an image, {taken / least:.2f} of the least"
            )
            print(f"{name}, 224 px: {way}: {rate:.1f} images/s, {shares}", flush=True)
        rate = max(statistics.median(rate for rate, _ in found) for found in served.values())
        at_half = [load(port, requests, 3 * seconds, rate=rate / 2)[1] for _ in range(rounds)]
        p50, p99 = (1e3 * statistics.median(np.quantile(each, share) for each in at_half) for share in (0.5, 0.99))
        requests_each = f"medians of {rounds} rounds of {len(at_half[0])} requests"
        print(f"{name}, half load: p50 {p50:.1f} ms, p99 {p99:.1f} ms, ratio {p99 / p50:.2f}, {requests_each}")


def processor_seconds(pid: int) -> float:
    """Return what a process and those that it started have taken so far."""
    parent = psutil.Process(pid)
    times = [each.cpu_times() for each in (parent, *parent.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


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


def raw_throughput(classifier: OnnxClassifier, batch: int, seconds: float) -> tuple[float, float]:
    """Return images a second, and the processor milliseconds of an image."""
    pixels = np.random.default_rng(0).random((batch, 3, 224, 224), np.float32)
    classifier.run(pixels)
    began, processor, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() < began + seconds:
        images += len(classifier.run(pixels))
    return images / (time.perf_counter() - began), 1e3 * (time.process_time() - processor) / images


def binding(folder: Path, rounds: int) -> None:
    """IO binding against plain runs on the CPU, batch by batch in turns, each on one thread."""
    tiny_model(folder / "tiny224.onnx", 224)
    graph("resnet18", folder / "resnet18.onnx")
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
    parser.add_argument("--only", choices=("overhead", "saturation", "binding", "workers"))
    parser.add_argument("--graphs", nargs="+", default=["resnet18", "mobilenet_v2"], help="of torchvision, to saturate")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the start")
    with tempfile.TemporaryDirectory() as temporary:
        if options.only in (None, "overhead"):
            overhead(Path(temporary), options.rounds, options.seconds, options.tritonserver)
        for name in options.graphs if options.only in (None, "saturation") else ():
            saturation(Path(temporary), name, options.rounds, options.seconds)
        if options.only in (None, "binding"):
            binding(Path(temporary), options.rounds)
        if options.only in (None, "workers"):
            workers(Path(temporary), options.rounds, options.seconds)


if __name__ == "__main__":
    main()
