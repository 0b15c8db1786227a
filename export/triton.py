"""A Triton model repository from a bundle, built as protobuf and compared with the graph."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal

import onnx
from google.protobuf import text_format

from genaf_sdk.errors import ExportError
from genaf_sdk.export.serve.bundle import open_bundle
from genaf_sdk.export.serve.errors import BundleError

TYPES = {onnx.TensorProto.FLOAT: "TYPE_FP32", onnx.TensorProto.UINT8: "TYPE_UINT8"}
CONFIG_FILE, LABELS_FILE, VERSION = "config.pbtxt", "labels.txt", "1"
LONGEST_DELAY = 60.0  # seconds
WORKSPACE = 4 * 2**30  # bytes that TensorRT may use while it builds


def write_triton_repository(
    bundle: str | Path,
    repository: str | Path,
    *,
    name: str | None = None,
    precision: str = "fp32",
    max_batch: int = 32,
    max_delay: float = 0.0,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    instances: int = 1,
    tensorrt: bool = False,
) -> Path:
    """Write ``REPOSITORY/NAME/config.pbtxt``, ``labels.txt`` and ``1/model.onnx``; return ``REPOSITORY/NAME``.

    Weights that the graph keeps in files beside it go along.

    Args:
        bundle: The bundle's folder, or one ONNX file.
        repository: Folder that tritonserver is started on; other models in it are left alone.
        name: The model's name; by default the bundle folder's.
        precision: Which of the bundle's models.
        max_batch: Most images of one run.
        max_delay: Seconds that a batch waits to fill up.
        device: Where instances run; ``auto`` is Triton's choice, a GPU where there is one.
        instances: Copies that run at the same time, a device.
        tensorrt: Run by onnxruntime's TensorRT provider, at the precision of the file, with its engine kept on disk.

    Raises:
        ExportError: The bundle is damaged, its graph cannot be batched, or the repository has such a model already.
    """
    _check_numbers(max_batch=max_batch, instances=instances)
    if not 0 <= max_delay <= LONGEST_DELAY:
        raise ExportError(f"max_delay is {max_delay}.", expected=f"seconds from 0 to {LONGEST_DELAY}")
    if tensorrt and device == "cpu":
        raise ExportError("TensorRT was asked for on the CPU.", remedy="set device to 'gpu' or 'auto'")
    try:
        opened = open_bundle(bundle, precision=precision)
    except BundleError as error:
        raise ExportError(str(error)) from error
    chosen = name or Path(bundle).resolve().name.removesuffix(".onnx")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen):
        raise ExportError(f"The model's name is {chosen!r}.", expected="letters, digits, '.', '_' and '-'")
    target = Path(repository) / chosen
    if target.exists():
        raise ExportError(f"{target} exists already.", remedy="remove it, or give the model another name")
    config = _config(chosen, opened.content, max_batch)
    config.dynamic_batching.max_queue_delay_microseconds = round(max_delay * 1e6)
    kind = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}[device]
    config.instance_group.add(count=instances, kind=kind)
    if tensorrt:
        _accelerate(config, opened.sha256)
    if opened.class_names:
        config.output[0].label_filename = LABELS_FILE
    try:
        Path(repository).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=repository, prefix=".partial-") as temporary:
            folder = Path(temporary) / chosen
            (folder / VERSION).mkdir(parents=True)
            for file, content in {**opened.weights, "model.onnx": opened.content}.items():
                (folder / VERSION / file).write_bytes(content)
            (folder / CONFIG_FILE).write_text(text_format.MessageToString(config), encoding="utf-8")
            if opened.class_names:
                lines = (" ".join(label.split()) for label in opened.class_names)
                (folder / LABELS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
            check_triton_model(folder)
            os.rename(folder, target)  # noqa: PTH104  # Path.rename would replace an empty folder of somebody else
    except OSError as error:
        raise ExportError(f"{target} cannot be written: {error.strerror or error}.") from error
    return target


def check_triton_model(folder: Path) -> None:
    """Read a model's folder back and compare what its configuration says with its graph.

    Raises:
        ExportError: The configuration cannot be parsed, or names, types, sizes or batching differ from the graph.
    """
    try:
        config = text_format.Parse((folder / CONFIG_FILE).read_text(encoding="utf-8"), _model_config())
        graph = onnx.load(str(folder / VERSION / "model.onnx"), load_external_data=False).graph
    except (OSError, text_format.ParseError, ValueError) as error:
        raise ExportError(f"{folder} holds no Triton model: {error}.") from error
    for stated, actual in ((config.input, graph.input), (config.output, graph.output)):
        found = [(entry.name, _type_name(entry), tuple(entry.dims)) for entry in stated]
        expected = [_described(node) for node in actual]
        if found != expected:
            raise ExportError(f"{folder / CONFIG_FILE} says {found}.", expected=f"what the graph says: {expected}")
    if config.name != folder.name:
        raise ExportError(f"{folder / CONFIG_FILE} names the model {config.name!r}.", expected=repr(folder.name))


def _model_config() -> Any:
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # late: it brings grpc along

    return ModelConfig()


def _type_name(entry: Any) -> str:
    name: str = entry.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number[entry.data_type].name
    return name


def _described(node: onnx.ValueInfoProto) -> tuple[str, str, tuple[int, ...]]:
    """Return name, Triton's name of the type, and the sizes after the batch, of one end of a graph.

    Raises:
        ExportError: The batch is not free, or another size is, or Triton's clients cannot send the type.
    """
    tensor = node.type.tensor_type
    batch, *sizes = (dim.dim_value for dim in tensor.shape.dim)
    if batch or not all(sizes) or tensor.elem_type not in TYPES:
        shape = [dim.dim_value or dim.dim_param for dim in tensor.shape.dim]
        raise ExportError(
            f"{node.name!r} of the graph has the shape {shape} and the type {tensor.elem_type}.",
            expected="a free batch and fixed other sizes, float32 or uint8",
            remedy="export the model again with genaf-sdk",
        )
    return node.name, TYPES[tensor.elem_type], tuple(sizes)


def _config(name: str, content: bytes, max_batch: int) -> Any:
    """Return the configuration of one ONNX file: its ends, and a warm-up of one image and of the largest batch."""
    graph = onnx.load_model_from_string(content).graph
    config = _model_config()
    config.name, config.backend, config.max_batch_size = name, "onnxruntime", max_batch
    for stated, actual in ((config.input, graph.input), (config.output, graph.output)):
        for node in actual:
            end, kind, sizes = _described(node)
            stated.add(name=end, data_type=kind, dims=sizes)
    for size in sorted({1, max_batch}):
        warm_up = config.model_warmup.add(name=f"batch of {size}", batch_size=size)
        for entry in config.input:
            dummy = warm_up.inputs[entry.name]
            dummy.data_type, dummy.zero_data = entry.data_type, True
            dummy.dims.extend(entry.dims)
    return config


def _accelerate(config: Any, sha256: str) -> None:
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="tensorrt")
    # Half precision is a file of its own, whose robustness was measured; TensorRT must not choose it here.
    accelerator.parameters["precision_mode"] = "FP32"
    accelerator.parameters["max_workspace_size_bytes"] = str(WORKSPACE)
    accelerator.parameters["trt_engine_cache_enable"] = "true"
    accelerator.parameters["trt_engine_cache_path"] = f"/tmp/tensorrt-{sha256}"  # noqa: S108  # the container's


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ExportError(f"{name} is {value}.", expected="at least 1")
