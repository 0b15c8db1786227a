"""One table of what the unmodified tritonclient must get, passed by our server and by a real tritonserver."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from servers import BACKEND, ENVIRONMENT, environment, tritonserver
from tiny import BIAS, CLASSES, SIZE, WEIGHT, images, reference, tiny_graph
from tritonclient.utils import InferenceServerException

from genaf_sdk.export.triton import write_triton_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Ports = tuple[int, int]

PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    """A tritonserver on a repository of ours, its backend exchanged for the one that the wheel has: Python."""
    found = environment()
    if found is None:
        pytest.skip(f"no tritonserver: {ENVIRONMENT}={os.environ.get(ENVIRONMENT, '')!r}")
    folder = tmp_path_factory.mktemp("triton")
    onnx.save(tiny_graph(), folder / "tiny.onnx")
    model = write_triton_repository(folder / "tiny.onnx", folder / "repository", max_batch=8)
    (model / "1" / "model.onnx").unlink()
    (model / "1" / "model.py").write_text(BACKEND)
    np.savez(model / "1" / "weights.npz", weight=WEIGHT, bias=BIAS)
    config = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(config.replace('backend: "onnxruntime"', 'backend: "python"'))
    with tritonserver(found, folder / "repository", log=folder / "log") as ports:
        yield ports


@pytest.fixture(params=["ours", pytest.param("triton", marks=pytest.mark.slow)])
def ports(request: pytest.FixtureRequest) -> Ports:
    found: Ports = request.getfixturevalue("served" if request.param == "ours" else "triton")
    return found


class Caller:
    """One client, sync, of either protocol."""

    def __init__(self, protocol: str, ports: Ports) -> None:
        self.module = PROTOCOLS[protocol]
        self.client = self.module.InferenceServerClient(f"127.0.0.1:{ports[protocol == 'grpc']}")

    def infer(
        self,
        pixels: np.ndarray,
        *,
        model: str = "tiny",
        version: str = "",
        name: str = "pixels",
        datatype: str = "FP32",
        output: str = "logits",
        **options: Any,
    ) -> Any:
        entry = self.module.InferInput(name, pixels.shape, datatype)
        entry.set_data_from_numpy(pixels)
        outputs = [self.module.InferRequestedOutput(output)]
        return self.client.infer(model, [entry], model_version=version, outputs=outputs, **options)


@pytest.fixture(params=["http", "grpc"])
def caller(request: pytest.FixtureRequest, ports: Ports) -> Iterator[Caller]:
    caller = Caller(request.param, ports)
    yield caller
    caller.client.close()


def test_health(caller: Caller) -> None:
    assert caller.client.is_server_live()
    assert caller.client.is_server_ready()
    assert caller.client.is_model_ready("tiny")
    assert caller.client.is_model_ready("tiny", "1")
    assert not caller.client.is_model_ready("tiny", "7")
    assert not caller.client.is_model_ready("nothing")


def plain(message: Any) -> dict[str, Any]:
    """Metadata as a dict, whichever protocol it came by."""
    if isinstance(message, dict):
        return message
    ends = {
        kind: [{"name": end.name, "datatype": end.datatype, "shape": list(end.shape)} for end in getattr(message, kind)]
        for kind in ("inputs", "outputs")
        if hasattr(message, kind)
    }
    rest = {name: getattr(message, name) for name in ("name", "versions", "extensions") if hasattr(message, name)}
    return {**rest, **ends}


def test_metadata(caller: Caller) -> None:
    server, model = plain(caller.client.get_server_metadata()), plain(caller.client.get_model_metadata("tiny"))
    assert server["name"]
    assert "binary_tensor_data" in server["extensions"]
    assert (model["name"], list(model["versions"])) == ("tiny", ["1"])
    assert model["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]}]
    assert model["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}]


@pytest.mark.parametrize("count", [1, 2, 8])
def test_batches(caller: Caller, count: int) -> None:
    pixels = images(count)
    result = caller.infer(pixels, request_id="the id", version="1")
    np.testing.assert_allclose(result.as_numpy("logits"), reference(pixels), atol=1e-5)
    response = result.get_response()
    assert (response["id"] if isinstance(response, dict) else response.id) == "the id"


@pytest.mark.parametrize(("sent", "returned"), [(True, True), (True, False), (False, True), (False, False)])
def test_http_json_and_binary(ports: Ports, sent: bool, returned: bool) -> None:
    pixels, module = images(2), tritonclient.http
    entry = module.InferInput("pixels", pixels.shape, "FP32")
    entry.set_data_from_numpy(pixels, binary_data=sent)
    output = module.InferRequestedOutput("logits", binary_data=returned)
    with module.InferenceServerClient(f"127.0.0.1:{ports[0]}") as client:
        result = client.infer("tiny", [entry], outputs=[output])
        everything = client.infer("tiny", [entry])
    np.testing.assert_allclose(result.as_numpy("logits"), reference(pixels), atol=1e-5)
    np.testing.assert_allclose(everything.as_numpy("logits"), reference(pixels), atol=1e-5)
    assert ("data" in result.get_response()["outputs"][0]) is not returned


def test_many_at_once_get_their_own_answers(ports: Ports) -> None:
    async def ask(module: Any, port: int) -> None:
        async with module.InferenceServerClient(f"127.0.0.1:{port}") as client:

            async def one(seed: int) -> None:
                pixels = images(1 + seed % 3, seed=seed)
                entry = module.InferInput("pixels", pixels.shape, "FP32")
                entry.set_data_from_numpy(pixels)
                result = await client.infer("tiny", [entry])
                np.testing.assert_allclose(result.as_numpy("logits"), reference(pixels), atol=1e-5)

            await asyncio.wait_for(asyncio.gather(*map(one, range(40))), 60)

    asyncio.run(ask(tritonclient.http.aio, ports[0]))
    asyncio.run(ask(tritonclient.grpc.aio, ports[1]))


def test_grpc_callbacks(ports: Ports) -> None:
    import queue

    answers: queue.Queue[Any] = queue.Queue()
    pixels, module = images(1), tritonclient.grpc
    entry = module.InferInput("pixels", pixels.shape, "FP32")
    entry.set_data_from_numpy(pixels)
    with module.InferenceServerClient(f"127.0.0.1:{ports[1]}") as client:
        client.async_infer("tiny", [entry], lambda result, error: answers.put(error or result))
        np.testing.assert_allclose(answers.get(timeout=30).as_numpy("logits"), reference(pixels), atol=1e-5)


ERRORS: dict[str, Callable[[Caller], Any]] = {
    "unknown model": lambda caller: caller.infer(images(1), model="nothing"),
    "unknown version": lambda caller: caller.infer(images(1), version="7"),
    "unknown input": lambda caller: caller.infer(images(1), name="image"),
    "unknown output": lambda caller: caller.infer(images(1), output="scores"),
    "wrong type": lambda caller: caller.infer(images(1).astype(np.float64), datatype="FP64"),
    "wrong size": lambda caller: caller.infer(images(1, size=8)),
    "one dimension less": lambda caller: caller.infer(images(1)[0]),
    "too large a batch": lambda caller: caller.infer(images(9)),
    "no image": lambda caller: caller.infer(images(1)[:0]),
}


@pytest.mark.parametrize("mistake", ERRORS)
def test_errors(caller: Caller, mistake: str) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ERRORS[mistake](caller)
    assert caught.value.message()
    assert caught.value.status() in ("400", "404", "StatusCode.INVALID_ARGUMENT", "StatusCode.NOT_FOUND")
    np.testing.assert_allclose(caller.infer(images(1)).as_numpy("logits"), reference(images(1)), atol=1e-5)
