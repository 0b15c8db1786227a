"""Requests as clients of every kind write them: absent fields as null, ids of their own, curl's habits, probes."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import siege
from onnx import TensorProto, helper, numpy_helper
from servers import our_server
from siege import ask
from test_serve_http import call
from tiny import SIZE, images, make_bundle, reference, seal
from tritonclient.grpc import service_pb2 as pb

from genaf_sdk.export.serve.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INFER = "/v2/models/tiny/infer"
RPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


def infer(port: int, entry: dict[str, Any] | None = None, **fields: Any) -> tuple[int, Any]:
    pixels = images(1)
    whole = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return call(port, "POST", INFER, json.dumps({"inputs": [{**whole, **(entry or {})}], **fields}))[:2]


@pytest.mark.parametrize(
    "fields",
    [
        {"id": None},
        {"parameters": None},
        {"outputs": None},
        {"outputs": []},
        {"outputs": [{"name": "logits", "parameters": None}]},
        {"outputs": [{"name": "logits", "parameters": {"binary_data": None}}]},
        {"parameters": {"timeout": None, "binary_data_output": None, "sequence_id": None}},
        {"entry": {"parameters": None}},
        {"entry": {"parameters": {"binary_data_size": None}}},
    ],
)
def test_null_is_absent(served: tuple[int, int], fields: dict[str, Any]) -> None:
    status, answer = infer(served[0], **fields)
    assert (status, "id" in answer) == (200, False), answer
    np.testing.assert_allclose(answer["outputs"][0]["data"], reference(images(1))[0], atol=1e-5)


@pytest.mark.parametrize("identity", ["", "a", "7", 7, 0, -1, "\ud800", "ä\u202e"])
def test_ids_come_back_as_they_came(served: tuple[int, int], identity: object) -> None:
    status, answer = infer(served[0], id=identity)
    assert (status, answer.get("id"), type(answer.get("id"))) == (200, identity, type(identity))


@pytest.mark.parametrize("identity", [True, 1.5, {}, ["a"]])
def test_other_ids_are_refused(served: tuple[int, int], identity: object) -> None:
    status, answer = infer(served[0], id=identity)
    assert (status, "id is" in answer["error"]) == (400, True)


def test_a_tensor_is_given_once(served: tuple[int, int]) -> None:
    size = 3 * SIZE * SIZE * 4
    entry = {"name": "pixels", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE], "data": [1.0] * (size // 4)}
    head = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": size}}]}).encode()
    headers = {"inference-header-content-length": str(len(head))}
    status, answer, _ = call(served[0], "POST", INFER, head + bytes(size), headers)
    assert (status, "one of them" in answer["error"]) == (400, True)


def test_long_json_is_read_like_short(served: tuple[int, int]) -> None:
    """One image fits the event loop's share, seven go to a process."""
    pixels = images(7)
    for identity in ("many", 7, None):
        status, answer = infer(served[0], {"shape": list(pixels.shape), "data": pixels.tolist()}, id=identity)
        assert (status, answer.get("id")) == (200, identity), answer
        np.testing.assert_allclose(np.reshape(answer["outputs"][0]["data"], (7, -1)), reference(pixels), atol=1e-5)
    status, answer = infer(served[0], {"shape": list(pixels.shape), "data": [*pixels.ravel().tolist(), 0.5]})
    assert (status, "values of type float" in answer["error"]) == (400, True)


def test_forms_are_named(served: tuple[int, int]) -> None:
    file = siege.picture()
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + file + b"\r\n--x--\r\n"
    status, answer, _ = call(served[0], "POST", "/classify", body, {"content-type": "multipart/form-data; boundary=x"})
    assert (status, "multipart" in answer["error"], "--data-binary" in answer["error"]) == (415, True, True)
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert call(served[0], "POST", "/classify", file, form)[0] == 200  # what curl --data-binary says
    damaged = file.replace(b"\r", b"").replace(b"\n", b"")
    status, answer, _ = call(served[0], "POST", "/classify", damaged, form)
    assert (status, "urlencoded" in answer["error"], "--data-binary" in answer["error"]) == (400, True, True)


def test_codings_are_named_in_any_case(served: tuple[int, int]) -> None:
    file = siege.picture()
    for coding in ("Identity", "IDENTITY", ""):
        assert call(served[0], "POST", "/classify", file, {"content-encoding": coding})[0] == 200
    status, _, headers = call(served[0], "POST", "/classify", gzip.compress(file), {"content-encoding": "gzip"})
    assert (status, headers["accept-encoding"]) == (415, "identity")


def test_other_sites_are_refused(served: tuple[int, int]) -> None:
    port, file = served[0], siege.picture()
    for headers in ({"host": "evil.example"}, {"origin": "http://evil.example"}, {"origin": "null"}):
        for method, path, body in (("GET", "/v2", None), ("GET", "/", None), ("POST", "/classify", file)):
            status, answer, _ = call(port, method, path, body, {"content-type": "text/plain", **headers})
            assert (status, "--allow-host" in answer["error"]) == (403, True)
    assert call(port, "POST", "/classify", file, {"origin": f"http://127.0.0.1:{port}"})[0] == 200


def test_kubernetes_may_ask_by_grpc(served: tuple[int, int]) -> None:
    target = siege.Target(*served, process=0)
    assert siege.rpc(target, "/grpc.health.v1.Health/Check", b"") == ["OK"]
    assert siege.rpc(target, "/grpc.health.v1.Health/Watch", b"") == ["UNIMPLEMENTED"]


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (siege.infer_message(), "INVALID_ARGUMENT"),
        (siege.infer_message(raw_input_contents=[b"", b""]), "INVALID_ARGUMENT"),
        (siege.infer_message(raw_input_contents=[bytes(12287)]), "INVALID_ARGUMENT"),
        (siege.infer_message(raw_input_contents=[bytes(12288)]), "OK"),
        (b"garbage", "INVALID_ARGUMENT"),
        (b"", "NOT_FOUND"),
        (b"\x0a\x02\xff\xff", "INVALID_ARGUMENT"),
    ],
)
def test_grpc_messages_of_every_kind(served: tuple[int, int], message: bytes, status: str) -> None:
    assert siege.rpc(siege.Target(*served, process=0), RPC_INFER, message) == [status]


def test_an_output_is_asked_for_once(served: tuple[int, int]) -> None:
    """Or a small request could make an answer of any size."""
    outputs = [{"name": "logits"}] * 2
    status, answer = infer(served[0], outputs=outputs)
    assert (status, "repeat a name" in answer["error"]) == (400, True)
    for count, wanted in ((1, "OK"), (2, "INVALID_ARGUMENT"), (200, "INVALID_ARGUMENT")):
        asked = [pb.ModelInferRequest.InferRequestedOutputTensor(name="logits")] * count
        message = siege.infer_message(raw_input_contents=[bytes(12288)], outputs=asked)
        assert siege.rpc(siege.Target(*served, process=0), RPC_INFER, message) == [wanted]


@pytest.mark.parametrize("name", ["tiny", "bytes"])
def test_grpc_numbers_one_by_one(served: tuple[int, int], name: str) -> None:
    count = 8 * 3 * SIZE * SIZE
    if name == "bytes":
        good, bad = {"uint_contents": [0, 255] * (count // 2)}, {"uint_contents": [256] * count}
        shape, datatype = [8, SIZE, SIZE, 3], "UINT8"
    else:
        good, bad = {"fp32_contents": [0.5] * count}, {"int_contents": [1] * count}
        shape, datatype = [8, 3, SIZE, SIZE], "FP32"
    few = {field: values[:-1] for field, values in good.items()}
    for contents, status in ((good, "OK"), (bad, "INVALID_ARGUMENT"), (few, "INVALID_ARGUMENT")):
        tensor = pb.InferTensorContents(**contents)
        entry = pb.ModelInferRequest.InferInputTensor(name="pixels", datatype=datatype, shape=shape, contents=tensor)
        message = pb.ModelInferRequest(model_name=name, inputs=[entry]).SerializeToString()
        assert siege.rpc(siege.Target(*served, process=0), RPC_INFER, message) == [status]


def channels_bundle(folder: Path, channels: int) -> Path:
    """A model of so many channels: as many classes, each the mean of one."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["maps"]),
        helper.make_node("Flatten", ["maps"], ["logits"]),
    ]
    shape = ["batch", channels, SIZE, SIZE]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", channels])],
    )
    folder.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx"
    )
    seal(folder)
    return folder


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("channels")
    bundles = [str(channels_bundle(folder / f"c{count}", count)) for count in (1, 2, 4)]
    with our_server(*bundles, "--threads", "1", "--drain", "0", log=folder / "log") as (port, _, _):
        yield port


@pytest.mark.parametrize(
    ("model", "mode", "status", "says"),
    [
        ("c4", "RGBA", 200, "3"),
        ("c4", "RGB", 400, "four bands"),
        ("c4", "L", 400, "four bands"),
        ("c1", "L", 200, "0"),
        ("c1", "RGBA", 200, "0"),
        ("c2", "LA", 400, "send tensors"),
    ],
)
def test_pictures_for_models_of_other_channels(channels: int, model: str, mode: str, status: int, says: str) -> None:
    found, answer = ask(channels, "POST", f"/v2/models/{model}/classify", siege.picture(mode=mode))
    assert (found, says in (json.loads(answer).get("error") or json.loads(answer)["label"])) == (status, True), answer


def test_logits_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    folder, log = make_bundle(tmp_path / "tiny"), tmp_path / "log"
    model = onnx.load(folder / "model.onnx")
    (bias,) = (entry for entry in model.graph.initializer if entry.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.array([0, np.inf, 0, 0], np.float32), "bias"))
    onnx.save(model, folder / "model.onnx")
    seal(folder)
    with our_server(str(folder), "--threads", "1", "--drain", "0", log=log) as (port, _, _):
        for status, answer in (infer(port), call(port, "POST", "/classify", siege.picture())[:2]):
            assert (status, answer["error"]) == (500, "The model gave NaN or infinity.")
    assert "unforeseen" not in log.read_text()


def test_the_command_line_shows_no_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "\x1b]0;owned\x07\u202e")]) == 2
    told = capsys.readouterr().err
    assert "\\x1b]0;owned\\x07\\u202e" in told
    assert "\x1b" not in told


def test_the_command_line_wants_a_key_or_a_word(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bundle), "--host", "0.0.0.0"]) == 2
    assert "--open" in capsys.readouterr().err


def test_an_open_server_says_so(tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ["--host", "0.0.0.0", "--open", "--drain", "0"]
    with our_server(str(make_bundle(tmp_path / "tiny")), *options, log=log) as (port, _, _):
        assert call(port, "GET", "/v2", headers={"host": "any.example"})[0] == 200
    assert '"event": "open"' in log.read_text()
