"""A classifier as one ONNX file: pixels in [0, 1] in, logits out, normalization inside, any batch size."""

from __future__ import annotations

import copy
import json
import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genaf_sdk._version import __version__
from genaf_sdk.errors import ExportError
from genaf_sdk.files import replacing
from genaf_sdk.models.encoder import as_feature_vectors

if TYPE_CHECKING:
    from genaf_sdk.models.classifier import Classifier

INPUT, OUTPUT = "pixels", "logits"
LARGEST = 2 * 2**30 - 1  # bytes: the limit of one protobuf file
SHOWN = 300  # signs of a reason


class ServedModel(nn.Module):
    """The classifier as a served graph: perhaps in half precision inside, perhaps on raw bytes.

    Args:
        model: The classifier; it is not changed.
        half: Backbone and head in half precision; normalization before and logits after it stay in single.
        uint8_input: Input is uint8 (batch, H, W, C), 0 to 255, instead of float32 (batch, C, H, W) in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier, *, half: bool = False, uint8_input: bool = False) -> None:
        super().__init__()
        copied = copy.deepcopy(model).cpu().eval().to(memory_format=torch.contiguous_format)
        self.dtype = torch.half if half else torch.float
        self.backbone, self.head = copied.encoder.backbone.to(self.dtype), copied.head.to(self.dtype)
        self.register_buffer("mean", copied.encoder.mean)
        self.register_buffer("std", copied.encoder.std)
        self.uint8_input = uint8_input

    def forward(self, images: Tensor) -> Tensor:
        """Map a batch of images to float32 logits (batch, K)."""
        pixels = images.permute(0, 3, 1, 2).float() / 255 if self.uint8_input else images
        normalized = (pixels - self.mean) / self.std
        logits: Tensor = self.head(as_feature_vectors(self.backbone(normalized.to(self.dtype)))).float()
        return logits


def export_onnx(
    model: Classifier,
    path: str | Path,
    *,
    half: bool = False,
    uint8_input: bool = False,
    color: tuple[float, ...] = (),
) -> Path:
    """Write ``model`` as a single ONNX file and return its path.

    Input ``pixels``: float32 (batch, C, H, W) in [0, 1]. Output ``logits``: float32 (batch, K). The class names, the
    image size, the number of channels, how images are resized and the version are kept as metadata. The file is
    checked by ``onnx.checker``.

    Args:
        model: The classifier.
        path: File to write.
        half: Compute in half precision; input and output stay float32.
        uint8_input: Take uint8 (batch, H, W, C) instead.
        color: Mean color of the training images, one number a channel, which hides a patch where answers are to be
            certified; empty where it is not known.

    Raises:
        ExportError: The model cannot be traced, or is too large for one file.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    height, width = model.image_size
    if uint8_input:
        example = torch.full((2, height, width, model.encoder.channels), 128, dtype=torch.uint8)
    else:
        example = torch.full((2, model.encoder.channels, height, width), 0.5)
    try:
        # Fused attention with a bias (BEiT, MaxViT) is traced with other strides than it is decomposed with.
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")  # the exporter's own deprecations are not the user's concern
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            proto = _traced(ServedModel(model, half=half, uint8_input=uint8_input).eval(), example)
    except ExportError:
        raise
    except Exception as error:  # the exporter and the encoder raise whatever their authors chose
        raise ExportError(
            f"The model cannot be exported to ONNX: {_reason(error)}",
            remedy="write the encoder's forward pass without control flow that depends on the batch",
        ) from error
    if proto.ByteSize() > LARGEST:
        raise ExportError(f"The model takes {proto.ByteSize()} bytes.", expected=f"at most {LARGEST}, one ONNX file")
    metadata = {
        "genaf_sdk": __version__,
        "class_names": json.dumps(model.class_names, ensure_ascii=False),
        "image_size": json.dumps(model.image_size),
        "channels": str(model.encoder.channels),
        "interpolation": model.encoder.interpolation,
        "encoder": model.encoder.source,
    } | ({"mean_color": json.dumps(color)} if color else {})
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return path


def _traced(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Return the graph of a model for batches of any size.

    To the tracer that most models need, ``len(x)`` is a number, and the batch is fixed at that of the example. The one
    that reads Python's bytecode sees the batch there, and fails on other models: it is the second choice.
    """
    dynamic = ({0: torch.export.Dim("batch")},)
    options: dict[str, Any] = {
        "dynamo": True, "input_names": [INPUT], "output_names": [OUTPUT], "dynamic_shapes": dynamic, "verbose": False
    }  # fmt: skip
    program = torch.onnx.export(model, (example,), **options)
    if program is not None and not program.model_proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        exported = torch.export.export(model, (example,), dynamic_shapes=dynamic, strict=True)
        program = torch.onnx.export(exported, **options)
    if program is None:
        raise ExportError("torch.onnx.export gave no program.", remedy="update torch and onnxscript")
    proto: onnx.ModelProto = program.model_proto
    return proto


def _reason(error: BaseException) -> str:
    """Return what the first cause of an exporter's error says, in a line: without colors, advice and whole graphs."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first[:SHOWN]}".rstrip(": ")
