"""Open Inference Protocol v2: from a request's bytes to pixels, from logits to a response's bytes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, ModelError
from .models import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .models import ServedModel

    Array = NDArray[Any]

SERVER = {"name": "genaf-serve", "version": "1", "extensions": ["binary_tensor_data"]}
REFUSED = ("shared_memory_region", "classification", "sequence_id")


@dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Args:
        pixels: In the model's own type and layout; the range is not checked yet.
        id: Returned as it came.
        binary: Whether the logits go back as bytes.
        timeout: Seconds that the client allows; None where it does not say.
    """

    pixels: Array
    id: str = ""
    binary: bool = False
    timeout: float | None = None


def parse(body: bytes, header_length: int | None, model: ServedModel) -> InferRequest:
    """Read an HTTP body: JSON, or JSON followed by the tensor's bytes.

    Args:
        body: As received.
        header_length: Bytes of the JSON part, from the header Inference-Header-Content-Length; None where all is JSON.
        model: What the request is for.

    Raises:
        InputError: The body is no such request, or its tensor does not fit the model.
    """
    length = len(body) if header_length is None else header_length
    if length > len(body):
        raise InputError("Inference-Header-Content-Length is more than the whole body.", expected="that of the JSON")
    try:
        content = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise InputError(f"The request is no JSON: {error}.", expected="an inference request") from error
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list):
        raise InputError("The request has no list 'inputs'.", expected='{"inputs": [...]}')
    inputs = content["inputs"]
    if len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(f"The request has {len(inputs)} inputs.", expected="one")
    entry = inputs[0]
    given, shape = _parameters(entry), entry.get("shape")
    count = check_tensor(model, entry.get("name"), entry.get("datatype"), shape)
    size = given.get("binary_data_size")
    if size is None:
        if length != len(body):
            raise InputError("Bytes follow the JSON, but no input claims them.", expected="binary_data_size")
        pixels = _from_json(entry.get("data"), model, count)
    else:
        if size != len(body) - length:
            raise InputError(f"binary_data_size is {size!r}.", expected=f"{len(body) - length}, the bytes that follow")
        pixels = from_bytes(memoryview(body)[length:], model, count)
    overall, identity = _parameters(content), content.get("id", "")
    return InferRequest(
        pixels=pixels,
        id=identity if isinstance(identity, str) else str(identity),
        binary=_wants_binary(content.get("outputs"), overall, model),
        timeout=timeout_of(overall.get("timeout")),
    )


def check_tensor(model: ServedModel, name: object, datatype: object, shape: object) -> int:
    """Compare an input's description with the model's and return the number of images.

    Raises:
        InputError: Another name, type or shape.
    """
    wanted = model.classifier
    if name != wanted.input_name:
        raise InputError(f"The input is named {str(name)[:80]!r}.", expected=repr(wanted.input_name))
    if datatype != model.datatype:
        raise InputError(f"The input {name!r} has the datatype {str(datatype)[:80]!r}.", expected=model.datatype)
    plain = isinstance(shape, (list, tuple)) and all(type(value) is int for value in shape) and len(shape) == 4
    if not plain or tuple(shape[1:]) != wanted.input_shape or not 0 < shape[0] <= wanted.max_batch:  # type: ignore[index]
        raise InputError(
            f"The input {name!r} has the shape {str(shape)[:80]}.",
            expected=f"(N, {', '.join(map(str, wanted.input_shape))}), N from 1 to {wanted.max_batch}",
        )
    return int(shape[0])  # type: ignore[index]  # checked above


def from_bytes(data: bytes | memoryview, model: ServedModel, count: int) -> Array:
    """Return pixels (N, ...) that share memory with ``data``: little endian, row-major.

    Raises:
        InputError: Too few or too many bytes.
    """
    shape, dtype = (count, *model.classifier.input_shape), model.classifier.dtype
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise InputError(f"The input holds {len(data)} bytes.", expected=f"{expected} for the shape {shape}")
    return np.frombuffer(data, dtype.newbyteorder("<")).reshape(shape)


def from_values(values: Sequence[float], model: ServedModel, count: int) -> Array:
    """Return pixels (N, ...) of numbers in a flat or nested list.

    Raises:
        InputError: Not numbers, or too few or too many.
    """
    shape = (count, *model.classifier.input_shape)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError("The values are a ragged list or too large.", expected=f"numbers of shape {shape}") from error
    if array.dtype.kind not in "iuf" or array.size != math.prod(shape):
        raise InputError(
            f"The input holds {array.size} values of type {array.dtype}.", expected=f"numbers of shape {shape}"
        )
    if model.classifier.takes_bytes and (array.dtype.kind == "f" or array.min() < 0 or array.max() > 255):
        raise InputError("The values are not bytes.", expected="whole numbers from 0 to 255")
    return array.astype(model.classifier.dtype).reshape(shape)


def timeout_of(microseconds: object) -> float | None:
    """Return the request parameter ``timeout`` (microseconds) in seconds; None and 0 set none.

    Raises:
        InputError: It is no whole number of at least 0.
    """
    if microseconds is None or microseconds == 0:
        return None
    if type(microseconds) is not int or not 0 < microseconds < 2**63:
        raise InputError(f"The timeout is {str(microseconds)[:40]!r}.", expected="microseconds, a whole number")
    return microseconds / 1e6


def check_output(name: object, parameters: dict[str, Any], model: ServedModel) -> None:
    """Refuse an output that the model has not, and what this server cannot do with one.

    Raises:
        InputError: Such an output.
    """
    if name != model.classifier.output_name:
        raise InputError(f"The output is named {str(name)[:80]!r}.", expected=repr(model.classifier.output_name))
    refuse(parameters)


def respond(logits: Array, request: InferRequest, model: ServedModel) -> tuple[bytes, int | None]:
    """Return the body and, where the logits are in it as bytes, the length of its JSON part.

    Raises:
        ModelError: The logits are NaN or infinite, which JSON cannot say.
    """
    data = np.ascontiguousarray(logits, "<f4")
    output: dict[str, Any] = {"name": model.classifier.output_name, "datatype": "FP32", "shape": list(data.shape)}
    content = {"model_name": model.name, "model_version": VERSION, "outputs": [output]}
    if request.id:
        content["id"] = request.id
    if request.binary:
        output["parameters"] = {"binary_data_size": data.nbytes}
        head = json.dumps(content).encode()
        return head + data.tobytes(), len(head)
    output["data"] = data.ravel().tolist()
    try:
        return json.dumps(content, allow_nan=False).encode(), None
    except ValueError as error:
        raise ModelError("The model gave NaN or infinity.") from error


def _from_json(data: object, model: ServedModel, count: int) -> Array:
    if not isinstance(data, list):
        raise InputError("The input has no list 'data'.", expected="numbers, or binary_data_size and bytes")
    return from_values(data, model, count)


def _wants_binary(outputs: object, overall: dict[str, Any], model: ServedModel) -> bool:
    everything = overall.get("binary_data_output", False) is True
    if outputs is None:
        return everything
    if not isinstance(outputs, list) or len(outputs) != 1 or not isinstance(outputs[0], dict):
        raise InputError("The request's 'outputs' name no single output.", expected="a list of one, or none")
    parameters = _parameters(outputs[0])
    check_output(outputs[0].get("name"), parameters, model)
    return parameters.get("binary_data", everything) is True


def _parameters(content: dict[str, Any]) -> dict[str, Any]:
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InputError("'parameters' is no object.", expected='{"name": value}')
    refuse(parameters)
    return parameters


def refuse(parameters: dict[str, Any]) -> None:
    """Refuse request parameters that ask for what this server does not do.

    Raises:
        InputError: There is such a parameter.
    """
    for name in REFUSED:
        if parameters.get(name):
            raise InputError(f"The parameter {name!r} is not supported.", remedy="leave it out")
