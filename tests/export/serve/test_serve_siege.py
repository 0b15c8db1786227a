"""A server under attack: every limit holds, memory comes back, and health is answered meanwhile."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import siege
from servers import our_server
from siege import ATTACKS, INFER, MIB, RPC_INFER, Bystander, Target, ask, closed, connections, many
from tiny import make_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONNECTIONS, SECONDS = 20, 2
KEPT = 96
"""MiB that gRPC's library and the allocator may keep beside what is counted, until it is given back."""
LIMITS = ["--threads", "1", "--drain", "0", "--max-connections", str(CONNECTIONS), "--timeout", str(SECONDS)]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A small server: bodies of 8 MiB, memory of 64 MiB; its second model takes messages as large as a body."""
    folder = tmp_path_factory.mktemp("besieged")
    limits = [*LIMITS, "--max-body", str(8 * MIB), "--max-memory", str(64 * MIB)]
    bundles = [str(make_bundle(folder / "tiny")), str(make_bundle(folder / "large", size=192))]
    with our_server(*bundles, *limits, log=folder / "log") as (http, rpc, process):
        found = Target(http, rpc, process.pid)
        siege.ask(http, "POST", "/classify", siege.picture())
        yield found
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert [line for line in lines if line["level"] == "error"] == []
    assert lines[-1]["event"] == "stopped"


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Target]:
    """A server with a key and bodies of 32 MiB."""
    (tmp_path / "key").write_text("the secret")
    limits = [*LIMITS, "--max-body", str(32 * MIB), "--api-key-file", str(tmp_path / "key")]
    with our_server(str(make_bundle(tmp_path / "tiny")), *limits, log=tmp_path / "log") as (http, rpc, process):
        yield Target(http, rpc, process.pid, max_body=32 * MIB)


def good(target: Target) -> list[int]:
    """Status of a good picture and a good tensor."""
    body, headers = siege.tensor_request()
    asked = [ask(target.http, "POST", "/classify", siege.picture()), ask(target.http, "POST", INFER, body, headers)]
    return [status for status, _ in asked]


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_takes_memory_for_good_or_silences_health(target: Target, name: str) -> None:
    ATTACKS[name](replace(target, max_body=2 * MIB))  # what the first of a kind loads stays
    before = siege.resident(target.process)
    with Bystander(target) as bystander:
        ATTACKS[name](target)
        time.sleep(0.1)
        until = time.monotonic() + 20  # some seconds later, what the allocator has kept goes back
        while siege.resident(target.process) - before >= 32 and time.monotonic() < until:
            time.sleep(0.1)
    assert bystander.failures == []
    assert siege.resident(target.process) - before < 32
    assert bystander.peak - before < 64 + KEPT
    assert good(target) == [200, 200]


def test_scans_are_counted_before_any_is_decoded(target: Target) -> None:
    body = siege.scans_jpeg(483)
    answers = many(6, lambda: ask(target.http, "POST", "/classify", body)[0])
    assert answers == [413] * 6
    before = siege.processor_seconds(target.process)
    time.sleep(0.5)
    assert siege.processor_seconds(target.process) - before < 0.3  # nobody works on


def test_pixels_are_counted_before_they_are_decoded(target: Target) -> None:
    status, answer = ask(target.http, "POST", "/classify", siege.wide_png(5000, 5000))
    assert (status, b"bytes of memory" in answer) == (413, True)
    assert ask(target.http, "POST", "/classify", siege.wide_png(6000, 6000))[0] == 413


def test_bodies_that_are_announced_take_no_memory_before_they_come(target: Target) -> None:
    begun = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {8 * MIB}\r\n\r\nabc".encode()
    before = siege.resident(target.process)
    with connections(target.http, CONNECTIONS - 2, begun):
        time.sleep(0.3)
        assert siege.resident(target.process) - before < 32  # of 144
        assert ask(target.http, "GET", "/v2/health/ready")[0] == 200


def test_ids_are_short(target: Target) -> None:
    wanted = (("x" * 1024, 200), ("x" * 1025, 400), ("é" * 600, 400), (7, 200), (10**30, 400), ([], 400))
    for identity, status in wanted:
        body, headers = siege.tensor_request(id=identity)
        found, answer = ask(target.http, "POST", INFER, body, headers)
        assert found == status, answer[:200]
    message = siege.infer_message(id="x" * 1025, raw_input_contents=[bytes(3 * 32 * 32 * 4)])
    assert siege.rpc(target, RPC_INFER, message) == ["INVALID_ARGUMENT"]


def test_descriptions_of_tensors_are_short(target: Target) -> None:
    text = b'{"inputs": [' + b"[]," * 30_000 + b"[]]}"
    headers = {"Inference-Header-Content-Length": str(len(text))}
    status, answer = ask(target.http, "POST", INFER, text + b"0000", headers)
    assert (status, b"at most 65536" in answer) == (413, True)


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n", b"GET /"])
def test_heads_end(target: Target, start: bytes) -> None:
    part = b"y: z\r\n" if start.endswith(b"\n") else b"z" * 1000
    with connections(target.http, 1, start) as (connection,):
        sent = 0
        try:
            for _ in range(32 * MIB // len(part)):
                connection.sendall(part)
                sent += len(part)
            connection.sendall(b"\r\n\r\n")
        except OSError:  # closed, as it should be
            pass
    assert sent < 8 * MIB  # what lies in buffers between the two


def test_a_head_that_is_too_large_is_named(target: Target) -> None:
    assert ask(target.http, "GET", "/v2", headers={"x": "y" * 70_000})[0] == 431
    assert ask(target.http, "GET", "/v2", headers={f"x{number}": "y" for number in range(101)})[0] == 431
    assert ask(target.http, "GET", "/v2", headers={f"x{number}": "y" * 500 for number in range(90)})[0] == 200


def test_silent_connections_end(target: Target) -> None:
    with connections(target.http, 3) as silent, connections(target.http, 3, b"GET /v2 HTTP/1.1\r\nx: y\r\n") as slow:
        for each in silent:
            assert closed(each, 4 * SECONDS)
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408")
        assert all(closed(each, 4 * SECONDS) for each in slow)


def test_silent_connections_keep_nobody_out(target: Target) -> None:
    with connections(target.http, 8 * CONNECTIONS), connections(target.http, 8 * CONNECTIONS, b"GET /v2 HTTP/1.1\r\n"):
        assert good(target) == [200, 200]
        assert ask(target.http, "GET", "/v2/health/ready")[0] == 200


def test_health_is_answered_when_all_else_is_full(target: Target) -> None:
    begun = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode()
    with connections(target.http, CONNECTIONS, begun) as busy:
        until = time.monotonic() + SECONDS  # of which their heads take some on a busy machine
        while (answered := ask(target.http, "GET", "/v2"))[0] == 200 and time.monotonic() < until:
            time.sleep(0.01)
        status, answer = answered
        assert (status, b"fewer at once" in answer) == (503, True)
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert ask(target.http, "GET", path)[0] == 200
        assert busy[0].recv(100).startswith(b"HTTP/1.1 504")
    assert good(target) == [200, 200]


def test_grpc_messages_are_not_received_without_the_key(keyed: Target) -> None:
    message = siege.infer_message(raw_input_contents=[bytes(31 * MIB)])
    before = siege.resident(keyed.process)
    with Bystander(keyed) as bystander:
        assert siege.rpc(keyed, RPC_INFER, message, count=12) == ["UNAUTHENTICATED"] * 12
        live = siege.rpc(keyed, "/inference.GRPCInferenceService/ServerLive", message, count=4)
        assert live == ["OK"] * 4
    assert bystander.peak - before < 48
    headers = (("authorization", "Bearer the secret"),)
    right = siege.infer_message(raw_input_contents=[bytes(3 * 32 * 32 * 4)])
    assert siege.rpc(keyed, RPC_INFER, right, headers) == ["OK"]


def test_grpc_messages_share_the_memory(target: Target) -> None:
    message = siege.infer_message(raw_input_contents=[bytes(7 * MIB)])
    before = siege.resident(target.process)
    with Bystander(target) as bystander:
        statuses = Counter(siege.rpc(target, RPC_INFER, message, count=60))
    assert set(statuses) <= {"INVALID_ARGUMENT", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
    assert statuses["INVALID_ARGUMENT"] > 0
    assert bystander.peak - before < 64 + KEPT


def test_grpc_messages_are_no_larger_than_a_model_takes(keyed: Target) -> None:
    headers = (("authorization", "Bearer the secret"),)
    before = siege.resident(keyed.process)
    with Bystander(keyed) as bystander:
        for size, status in ((3 * MIB, "INVALID_ARGUMENT"), (6 * MIB, "RESOURCE_EXHAUSTED")):
            message = siege.infer_message(raw_input_contents=[bytes(size)])
            assert siege.rpc(keyed, RPC_INFER, message, headers) == [status]
        message = siege.infer_message(raw_input_contents=[bytes(31 * MIB)])
        assert siege.rpc(keyed, RPC_INFER, message, headers, count=12) == ["RESOURCE_EXHAUSTED"] * 12
    assert bystander.peak - before < 48


def test_grpc_connections_are_counted(target: Target) -> None:
    until = time.monotonic() + 10
    with connections(target.rpc, 3 * CONNECTIONS) as kept:
        while len(kept) > CONNECTIONS and time.monotonic() < until:
            kept = [each for each in kept if not closed(each, 0.05)]
        assert len(kept) <= CONNECTIONS
    while siege.rpc(target, "/grpc.health.v1.Health/Check", b"") != ["OK"]:
        assert time.monotonic() < until


def test_refusals_do_not_fill_the_disk(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with our_server(str(make_bundle(tmp_path / "tiny")), *LIMITS, log=log) as (http, _, _):
        siege.refusals(Target(http, 0, 0))
        for _ in range(100):
            with connections(http, 1, b"no HTTP\r\n\r\n") as (connection,):
                connection.recv(100)
        lines = log.read_text().splitlines()
    assert 20 <= sum('"request"' in line for line in lines) <= 45
    assert sum("Invalid HTTP" in line for line in lines) <= 45


def test_sigterm_ends_a_siege(tmp_path: Path) -> None:
    """Pictures at the limits of what is allowed are being decoded, and wait for it."""
    limits = [*LIMITS[:-1], "1"]
    with our_server(str(make_bundle(tmp_path / "tiny")), *limits, log=tmp_path / "log") as (http, _, process):
        body = siege.scans_jpeg(16)
        threads = [threading.Thread(target=ask, args=(http, "POST", "/classify", body)) for _ in range(15)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        workers = siege.children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        for thread in threads:
            thread.join()
    assert workers
    assert not any(alive(worker) for worker in workers)


def alive(process: int) -> bool:
    try:
        siege.resident(process)
    except (FileNotFoundError, ProcessLookupError, StopIteration):
        return False
    return True
