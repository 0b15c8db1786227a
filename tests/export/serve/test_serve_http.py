"""What reaches the server beyond well-meant requests, and what it answers."""

from __future__ import annotations

import http.client
import io
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.grpc
from PIL import Image
from servers import free_ports, our_server
from tiny import NAMES, SIZE, images, make_bundle, reference
from tritonclient.utils import InferenceServerException

import genaf_sdk.export.serve
from genaf_sdk.export.serve.__main__ import main
from genaf_sdk.export.serve.errors import SettingsError
from genaf_sdk.export.serve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INFER = "/v2/models/tiny/infer"
SERVE = Path(genaf_sdk.export.serve.__file__).parent


def call(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    """Return status, content (read as JSON where it is) and headers of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        data, found = response.read(), {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()
    return response.status, json.loads(data) if found.get("content-type") == "application/json" else data, found


def request(pixels: np.ndarray | None = None, **changes: Any) -> str:
    pixels = images(1) if pixels is None else pixels
    entry = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return json.dumps({"inputs": [{**entry, **changes}]})


def picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(file, kind)
    return file.getvalue()


NAN = np.full((1, 3, SIZE, SIZE), np.nan, np.float32)
BODIES: dict[str, tuple[Any, int, str]] = {
    "no JSON": ("{", 400, "no JSON"),
    "not UTF-8": (b"\xff\xfe", 400, "no JSON"),
    "deep": ("[" * 100_000, 400, "no JSON"),
    "a list": ("[]", 400, "no list 'inputs'"),
    "no inputs": ('{"inputs": []}', 400, "0 inputs"),
    "two inputs": ('{"inputs": [{}, {}]}', 400, "2 inputs"),
    "a number for an input": ('{"inputs": [1]}', 400, "inputs"),
    "NaN": (request(NAN), 400, "NaN"),
    "beyond 1": (request(images(1) * 255), 400, "divide bytes by 255"),
    "words": (request(data=["a"] * 3 * SIZE * SIZE), 400, "type str"),
    "ragged": (request(data=[[1, 2], [3]]), 400, "ragged"),
    "huge integers": (request(data=[10**400]), 400, "values"),
    "too few": (request(data=[0.5]), 400, "holds 1 values"),
    "no data": (request(data=None), 400, "no list 'data'"),
    "negative shape": (request(shape=[-1, 3, SIZE, SIZE]), 400, "shape"),
    "a shape of floats": (request(shape=[1.0, 3, SIZE, SIZE]), 400, "shape"),
    "a shape of truths": (request(shape=[True, 3, SIZE, SIZE]), 400, "shape"),
    "no shape": (request(shape=None), 400, "shape"),
    "odd parameters": (request(parameters=[]), 400, "parameters"),
    "shared memory": (request(parameters={"shared_memory_region": "x"}), 400, "shared_memory_region"),
    "odd size": (request(parameters={"binary_data_size": "x"}), 400, "binary_data_size"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_requests_are_named(served: tuple[int, int], name: str) -> None:
    body, status, says = BODIES[name]
    found, content, _ = call(served[0], "POST", INFER, body)
    assert (found, says in content["error"]) == (status, True), content


@pytest.mark.parametrize(
    ("length", "says"), [("x", "is 'x'"), ("-1", "is '-1'"), ("99999999", "more than the whole body"), ("²", "is '")]
)
def test_bad_header_lengths_are_named(served: tuple[int, int], length: str, says: str) -> None:
    headers = {"inference-header-content-length": length.encode("latin-1").decode("latin-1")}
    status, content, _ = call(served[0], "POST", INFER, request(), headers)
    assert (status, says in content["error"]) == (400, True), content


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_tensors_at_any_offset_are_read(served: tuple[int, int], padding: int) -> None:
    pixels = images(2)
    entry = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape)}
    head = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": pixels.nbytes}}]}) + " " * padding
    headers = {"inference-header-content-length": str(len(head))}
    status, content, _ = call(served[0], "POST", INFER, head.encode() + pixels.tobytes(), headers)
    assert status == 200
    np.testing.assert_allclose(np.reshape(content["outputs"][0]["data"], (2, -1)), reference(pixels), atol=1e-5)


def test_what_is_kept_of_a_description_is_not_its_pixels(served: tuple[int, int]) -> None:
    """Thrice the same description with other pixels, with an id that changes, as bytes and as numbers."""
    for seed in range(3):
        for identity in ("", "a", f"request {seed}"):
            for as_bytes in (False, True):
                pixels = images(1 + seed, seed=seed)
                data = {"parameters": {"binary_data_size": pixels.nbytes}} if as_bytes else {"data": pixels.tolist()}
                entry = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), **data}
                asked = {"inputs": [entry], "parameters": {"binary_data_output": True}}
                head = json.dumps(asked | ({"id": identity} if identity else {})).encode()
                headers = {"inference-header-content-length": str(len(head))}
                body = head + (pixels.tobytes() if as_bytes else b"")
                status, answer, found = call(served[0], "POST", INFER, body, headers)
                assert (status, found["content-type"]) == (200, "application/octet-stream")
                length = int(found["inference-header-content-length"])
                said = json.loads(answer[:length])
                assert (said.get("id", ""), said["outputs"][0]["shape"]) == (identity, [1 + seed, len(NAMES)])
                logits = np.frombuffer(answer[length:], "<f4").reshape(1 + seed, -1)
                np.testing.assert_allclose(logits, reference(pixels), atol=1e-5)


def test_a_description_that_fitted_before_must_fit_again(served: tuple[int, int]) -> None:
    entry = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE]}
    size = 3 * SIZE * SIZE * 4
    head = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": size}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    found = [call(served[0], "POST", INFER, head + b"\0" * length, headers)[0] for length in (size, size - 4, 0, size)]
    assert found == [200, 400, 400, 200]


def test_one_bad_request_does_not_harm_its_batch(served: tuple[int, int]) -> None:
    answers: list[int] = []
    bodies = [request(NAN) if number % 3 == 0 else request(images(1, seed=number)) for number in range(24)]
    threads = [
        threading.Thread(target=lambda b=body: answers.append(call(served[0], "POST", INFER, b)[0])) for body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answers) == [200] * 16 + [400] * 8


def test_paths_and_methods_that_are_not(served: tuple[int, int]) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", "/v2/models/nothing", 404),
        ("GET", "/v2/models/tiny/versions/7", 404),
        ("GET", INFER, 405),
        ("DELETE", "/v2", 405),
        ("GET", "/v2/models/..%2f..%2fetc", 404),
    ):
        found, content, _ = call(served[0], method, path)
        assert (found, bool(content["error"])) == (status, True), (method, path)
    said = call(served[0], "POST", "/predict")[1]["error"]
    assert "There is no path '/predict'. Expected: POST /classify" in said
    assert call(served[0], "GET", INFER)[1]["error"] == f"The path {INFER!r} does not take GET. Expected: POST."


def test_compressed_bodies_are_refused(served: tuple[int, int]) -> None:
    status, content, _ = call(served[0], "POST", INFER, b"x", {"content-encoding": "gzip"})
    assert (status, "gzip" in content["error"]) == (415, True)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", [INFER, "/classify"])
def test_a_large_body_is_refused_while_it_streams(served: tuple[int, int], path: str, chunked: bool) -> None:
    body: Any = (b"x" * 65536 for _ in range(48)) if chunked else b"x" * (3 * 2**20)
    status, content, headers = call(served[0], "POST", path, body)
    assert (status, headers["connection"]) == (413, "close")
    assert "2097152" in content["error"]


@pytest.mark.parametrize("path", [INFER, "/classify"])
def test_who_asks_whether_to_send_too_much_is_told_not_to(served: tuple[int, int], path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nExpect: 100-Continue\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", served[0]), timeout=20) as connection:
        connection.sendall(f"{head}{3 * 2**20}\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    with socket.create_connection(("127.0.0.1", served[0]), timeout=20) as connection:
        connection.sendall(f"{head}2\r\n\r\n".encode())
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_an_endless_body_is_answered(served: tuple[int, int]) -> None:
    with socket.create_connection(("127.0.0.1", served[0]), timeout=20) as connection:
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        chunk, stop = b"10000\r\n" + b"x" * 65536 + b"\r\n", time.monotonic() + 15

        def send() -> None:
            try:
                while time.monotonic() < stop:
                    connection.sendall(chunk)
            except OSError:
                return  # the server has closed the connection

        sender = threading.Thread(target=send)
        sender.start()
        answer = connection.recv(4096)
        connection.close()
        sender.join(20)
    assert answer.startswith(b"HTTP/1.1 413")


def test_an_image_is_classified(served: tuple[int, int]) -> None:
    for kind in ("PNG", "WEBP"):
        status, content, _ = call(served[0], "POST", "/v2/models/tiny/classify?top=2", picture(kind))
        assert status == 200
        assert content["label"] in NAMES
        assert [content["label"], content["score"]] == list(content["top"][0].values())
        assert len(content["top"]) == 2
        assert content["top"][0]["score"] >= content["top"][1]["score"]
    same = call(served[0], "POST", "/v2/models/bytes/classify", picture())[1]["score"]
    assert same == pytest.approx(call(served[0], "POST", "/classify", picture())[1]["score"], abs=1e-5)
    assert call(served[0], "GET", "/v2/models/tiny/labels")[1] == NAMES


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        (b"", "", 400),
        (b"GIF89a", "", 400),
        (b"%!PS-Adobe-3.0 EPSF", "", 400),
        (None, "?top=0", 400),
        (None, "?top=x", 400),
    ],
)
def test_what_is_no_image_is_refused(served: tuple[int, int], body: bytes | None, query: str, status: int) -> None:
    found, content, _ = call(served[0], "POST", f"/classify{query}", picture() if body is None else body)
    assert (found, bool(content["error"])) == (status, True)


def test_bytes_travel_as_bytes(served: tuple[int, int]) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    entry = {"name": "pixels", "datatype": "UINT8", "shape": list(raw.shape), "data": raw.tolist()}
    status, content, _ = call(served[0], "POST", "/v2/models/bytes/infer", json.dumps({"inputs": [entry]}))
    assert status == 200
    expected = reference((raw.transpose(0, 3, 1, 2) / 255).astype(np.float32))
    np.testing.assert_allclose(np.reshape(content["outputs"][0]["data"], (2, -1)), expected, atol=1e-5)
    entry["data"] = [256] * raw.size
    assert call(served[0], "POST", "/v2/models/bytes/infer", json.dumps({"inputs": [entry]}))[0] == 400


def test_metrics_count(served: tuple[int, int]) -> None:
    def count(text: bytes, start: str) -> float:
        return sum(float(line.split()[-1]) for line in text.decode().splitlines() if line.startswith(start))

    before = call(served[0], "GET", "/metrics")[1]
    call(served[0], "POST", INFER, request())
    call(served[0], "POST", INFER, "{")
    after = call(served[0], "GET", "/metrics")[1]
    for start, by in (
        ('serve_requests_total{protocol="http",status="400"}', 1),
        ('serve_batch_images_count{model="tiny"}', 1),
        ("serve_requests_open", 0),
    ):
        assert count(after, start) - count(before, start) == by, start
    assert count(after, 'serve_request_seconds_count{protocol="http"}') > 0


def test_the_page_can_do_nothing_but_ask_us(served: tuple[int, int]) -> None:
    status, page, headers = call(served[0], "GET", "/")
    assert (status, headers["x-content-type-options"]) == (200, "nosniff")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert b"://" not in page  # nothing is loaded from elsewhere


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    key = tmp_path / "key"
    key.write_text("the secret\n")
    bundle = make_bundle(tmp_path / "tiny")
    with our_server(
        str(bundle), "--api-key-file", str(key), "--log-requests", "--drain", "0", log=tmp_path / "log"
    ) as server:
        yield (*server, tmp_path / "log")


def test_the_api_key_is_asked_for_and_never_logged(guarded: Any) -> None:
    http_port, grpc_port, process, log = guarded
    for path in ("/", "/v2/health/live", "/v2/health/ready"):
        assert call(http_port, "GET", path)[0] == 200
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"x-api-key": "the secre"},
        {"authorization": "Bearer \xe9"},
    ):
        status, content, found = call(http_port, "POST", INFER, request(), headers)
        assert (status, found["www-authenticate"]) == (401, "Bearer")
        assert "the secret" not in content["error"]
    rightly = ("Bearer the secret", "bearer the secret", "BEARER  the secret")  # the scheme's name in any case
    for headers in (*({"authorization": each} for each in rightly), {"x-api-key": "the secret"}):
        assert call(http_port, "POST", INFER, request(), headers)[0] == 200
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="API key"):
            client.get_server_metadata()
        assert client.get_server_metadata({"authorization": "Bearer the secret"}).name
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    text = log.read_text()
    assert "the secret" not in text
    events = [json.loads(line) for line in text.splitlines()]
    assert sum(event["event"] == "request" for event in events) > 8
    assert all("0.5" not in str(event.get("error", "")) for event in events)


def test_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--drain", "0"]
    log = tmp_path / "log"
    trusting = ssl.create_default_context(cafile=str(certificate))
    with our_server(str(make_bundle(tmp_path / "tiny")), *options, log=log, certificate=certificate) as (port, rpc, _):
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=trusting)
        connection.request("POST", INFER, request())
        assert connection.getresponse().status == 200
        connection.close()
        client = tritonclient.grpc.InferenceServerClient(
            f"localhost:{rpc}", ssl=True, root_certificates=str(certificate)
        )
        assert client.is_model_ready("tiny")
        client.close()
        assert checked_health(port) == 0


def checked_health(port: int) -> int:
    """Run what the image's HEALTHCHECK runs, with another port; return its exit status."""
    found = re.search(r'^HEALTHCHECK .* CMD \["python", (.*), "8000"\]$', (SERVE / "Dockerfile").read_text(), re.M)
    assert found is not None
    arguments = json.loads(f"[{found[1]}]")
    return subprocess.run([sys.executable, *arguments, str(port)], cwd=SERVE.parent, check=False).returncode


def test_the_image_asks_for_health_with_tls_or_without(served: tuple[int, int]) -> None:
    assert checked_health(served[0]) == 0  # with TLS: test_tls
    assert checked_health(free_ports(1)[0]) == 1


@contextmanager
def gathering_server(folder: Path, drain: float = 0) -> Iterator[tuple[int, int, subprocess.Popen[bytes]]]:
    """A server whose batch waits until it is full, which takes four images, as many as the queue holds."""
    options = ["--max-batch", "4", "--max-queue", "4", "--max-delay", "600", "--drain", str(drain)]
    with our_server(str(make_bundle(folder / "tiny")), *options, log=folder / "log") as server:
        yield server


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def waiting(port: int) -> float:
    """How many images wait."""
    lines = call(port, "GET", "/metrics")[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("serve_waiting_images{"))


def in_background(results: list[Any], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.append(call(*arguments)))
    thread.start()
    return thread


def test_a_full_queue_says_so_and_recovers(tmp_path: Path) -> None:
    results: list[Any] = []
    with gathering_server(tmp_path) as (port, _, _):
        first = in_background(results, port, "POST", INFER, request(images(3)))
        eventually(lambda: waiting(port) == 3)
        status, content, headers = call(port, "POST", INFER, request(images(2)))
        assert (status, headers["retry-after"]) == (503, "1"), content
        assert call(port, "POST", INFER, request(images(1)))[0] == 200  # which the batch has waited for
        first.join(20)
        assert results[0][0] == 200
        assert call(port, "POST", INFER, request(images(4)))[0] == 200


def test_a_deadline_of_the_client_is_kept(tmp_path: Path) -> None:
    content = json.loads(request())
    content["parameters"] = {"timeout": 100_000}
    entry = tritonclient.grpc.InferInput("pixels", [1, 3, SIZE, SIZE], "FP32").set_data_from_numpy(images(1))
    with gathering_server(tmp_path) as (port, rpc, _):
        began = time.monotonic()
        status, answer, _ = call(port, "POST", INFER, json.dumps(content))
        assert (status, "deadline" in answer["error"]) == (504, True)
        assert time.monotonic() - began < Settings().timeout / 2, "that of the client, not the server's own"
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{rpc}") as client:
            with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
                client.infer("tiny", [entry], timeout=100_000)
            with pytest.raises(InferenceServerException, match=r"(?i)deadline"):
                client.infer("tiny", [entry], client_timeout=0.1)


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    options = ["--timeout", "0.5", "--drain", "0"]
    with (
        our_server(str(make_bundle(tmp_path / "tiny")), *options, log=tmp_path / "log") as (port, _, _),
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
    ):
        connection.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 504")


def test_sigterm_answers_what_was_accepted(tmp_path: Path) -> None:
    results: list[Any] = []
    with gathering_server(tmp_path, drain=3) as (port, _, process):
        threads = [in_background(results, port, "POST", INFER, request(images(1, seed=seed))) for seed in range(3)]
        eventually(lambda: waiting(port) == 3)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: call(port, "GET", "/v2/health/ready")[0] == 503)
        assert call(port, "GET", "/v2/health/live")[0] == 200
        status, _, headers = call(port, "POST", INFER, request())  # while it drains; the batch has waited for it
        assert (status, headers["connection"]) == (200, "close")
        for thread in threads:
            thread.join(20)
        assert [status for status, _, _ in results] == [200] * 3
        assert process.wait(20) == 0
    last = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert (last["event"], last["accepted"] - last["answered"] - last["cancelled"]) == ("stopped", 0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch": 0},
        {"timeout": -1},
        {"max_queue": 3},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"max_delay": 1e10},
        {"drain": 1e5},
        {"api_key": "ä"},
        {"api_key": "secret\n"},
        {"api_key": "two\nlines"},
        {"tls_key": "x"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Settings(**wrong)


def test_the_key_is_not_in_the_settings_text() -> None:
    assert "secret" not in repr(Settings(api_key="secret"))


def test_the_command_line_explains_what_is_wrong(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = str(taken.getsockname()[1])
        for arguments, says in (
            ([str(tmp_path / "nothing")], "There is no file"),
            ([str(bundle), str(bundle)], "taken"),
            ([str(bundle), "--max-batch", "0"], "max_batch"),
            ([str(bundle), "--tls-key", "x"], "tls"),
            ([str(bundle), "--api-key-file", str(tmp_path / "none")], "API key"),
            ([str(bundle), "--api-key-file", str(bundle / "model.onnx")], "API key"),
            ([str(bundle), "--http-port", busy, "--grpc-port", "-1"], "Cannot listen"),
            ([str(bundle), "--http-port", str(free_ports(1)[0]), "--grpc-port", busy], "Cannot listen"),
        ):
            assert main(arguments) == 2
            assert says in capsys.readouterr().err
