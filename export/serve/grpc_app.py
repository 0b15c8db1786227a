"""The gRPC side of the Open Inference Protocol v2, on the service definition that tritonclient ships."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as stubs

from . import protocol
from .errors import InputError, UnknownModelError
from .models import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .models import ServedModel
    from .service import Call, Service

OPEN_METHODS = ("ServerLive", "ServerReady")


class GrpcApp(stubs.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated, untyped
    """Answers over a service; methods that are not here answer UNIMPLEMENTED."""

    def __init__(self, service: Service) -> None:
        self._service = service
        for name in (
            "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "RepositoryIndex", "ModelInfer"
        ):  # fmt: skip
            setattr(self, name, self._guarded(name, getattr(self, f"_{name}")))

    def _guarded(self, name: str, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def answer(request: Any, context: Any) -> Any:
            with self._service.record("grpc", name) as call:
                try:
                    if name not in OPEN_METHODS:
                        headers = dict(context.invocation_metadata() or ())
                        self._service.authorize(headers.get("authorization", ""), headers.get("x-api-key", ""))
                    call.allow(context.time_remaining())
                    async with call.in_time():
                        response = await method(request, call)
                    call.status = "OK"
                except asyncio.CancelledError:  # the client gave up
                    call.status = "CANCELLED"
                    raise
                except Exception as error:
                    known = self._service.explain(error, call)
                    call.status = known.grpc_status
                else:
                    return response
            await context.abort(grpc.StatusCode[call.status], call.error)
            return None

        return answer

    async def _ServerLive(self, request: Any, call: Call) -> Any:  # noqa: N802  # the protocol's name, as below
        return pb.ServerLiveResponse(live=True)

    async def _ServerReady(self, request: Any, call: Call) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=not self._service.stopping)

    async def _ModelReady(self, request: Any, call: Call) -> Any:  # noqa: N802
        try:
            self._service.models.get(request.name, request.version)
        except UnknownModelError:  # tritonserver, too, answers no rather than with an error
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._service.stopping)

    async def _ServerMetadata(self, request: Any, call: Call) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(**protocol.SERVER)

    async def _ModelMetadata(self, request: Any, call: Call) -> Any:  # noqa: N802
        metadata = self._service.models.get(request.name, request.version).metadata
        tensors = {
            kind: [pb.ModelMetadataResponse.TensorMetadata(**entry) for entry in metadata[kind]]
            for kind in ("inputs", "outputs")
        }
        return pb.ModelMetadataResponse(
            name=metadata["name"], versions=metadata["versions"], platform=metadata["platform"], **tensors
        )

    async def _RepositoryIndex(self, request: Any, call: Call) -> Any:  # noqa: N802
        index = pb.RepositoryIndexResponse.ModelIndex
        names = self._service.models.names
        return pb.RepositoryIndexResponse(
            models=[index(name=name, version=VERSION, state="READY") for name in names]
        )

    async def _ModelInfer(self, request: Any, call: Call) -> Any:  # noqa: N802
        model = self._service.models.get(request.model_name, request.model_version)
        pixels = _pixels(request, model)
        call.allow(protocol.timeout_of(_plain(request.parameters).get("timeout")))
        async with call.in_time():
            logits = np.ascontiguousarray(await model.infer(pixels, call.deadline), "<f4")
        output = pb.ModelInferResponse.InferOutputTensor(
            name=model.classifier.output_name, datatype="FP32", shape=logits.shape
        )
        return pb.ModelInferResponse(
            model_name=model.name,
            model_version=VERSION,
            id=request.id,
            outputs=[output],
            raw_output_contents=[logits.tobytes()],
        )


def _pixels(request: Any, model: ServedModel) -> Any:
    """Read and check the one input of a request, and the outputs that it names."""
    if len(request.inputs) != 1:
        raise InputError(f"The request has {len(request.inputs)} inputs.", expected="one")
    entry = request.inputs[0]
    protocol.refuse(_plain(request.parameters))
    protocol.refuse(_plain(entry.parameters))
    for output in request.outputs:
        protocol.check_output(output.name, _plain(output.parameters), model)
    count = protocol.check_tensor(model, entry.name, entry.datatype, list(entry.shape))
    if len(request.raw_input_contents) == 1:
        return protocol.from_bytes(request.raw_input_contents[0], model, count)
    if request.raw_input_contents:
        raise InputError(f"The request has {len(request.raw_input_contents)} raw inputs.", expected="one")
    values = entry.contents.uint_contents if model.classifier.takes_bytes else entry.contents.fp32_contents
    return protocol.from_values(list(values), model, count)


def _plain(parameters: Any) -> dict[str, Any]:
    return {
        name: getattr(value, value.WhichOneof("parameter_choice") or "", None) for name, value in parameters.items()
    }


def make_server(service: Service) -> grpc.aio.Server:
    """Return a gRPC server for a service, not yet listening; its messages are as large as a request may be."""
    settings = service.settings
    head = 2**16  # names and shapes around the tensor
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_body + head),
            ("grpc.max_send_message_length", settings.max_body + head),
            ("grpc.so_reuseport", 0),
        ],
        # One message may be as large as a body, so this bounds their memory as max_memory bounds that of HTTP.
        maximum_concurrent_rpcs=max(settings.max_memory // settings.max_body * 8, 16),
    )
    stubs.add_GRPCInferenceServiceServicer_to_server(GrpcApp(service), server)
    return server
