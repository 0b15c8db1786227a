"""An ONNX file as a callable on torch pixels, for parity and replay inside this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genaf_sdk.errors import ExportError
from genaf_sdk.export.layout import MODEL_FILE
from genaf_sdk.export.serve import ServeError, open_bundle
from genaf_sdk.export.serve.providers import open_session


class OnnxModel:
    """Runs ``model.onnx`` on the CPU with onnxruntime: pixels (N, C, H, W) in [0, 1] to logits (N, K), torch tensors.

    Args:
        path: The file, or the folder that holds ``model.onnx``.

    Raises:
        ExportError: The file is missing, damaged or unsafe, has several inputs or outputs, or none, or onnxruntime
            cannot run it; or two onnxruntime packages are installed, which overwrite one another's files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)
        try:
            self.session, _ = open_session(open_bundle(self.path), provider="cpu")
        except ServeError as error:
            raise ExportError(str(error)) from error
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ExportError(
                f"{self.path} has {len(inputs)} inputs and {len(outputs)} outputs.", expected="pixels in, logits out"
            )
        self.uint8_input = inputs[0].type == "tensor(uint8)"
        self.input, self.output = inputs[0].name, outputs[0].name
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the logits; empty where the file does not say."""
        names: list[str] = json.loads(self.metadata.get("class_names", "[]"))
        return names

    @property
    def mean_color(self) -> tuple[float, ...]:
        """Mean color of its training images, one number a channel; empty where the file does not say."""
        return tuple(json.loads(self.metadata.get("mean_color", "[]")))

    @property
    def image_options(self) -> dict[str, Any]:
        """How ``load_data`` has to load images for this file: by the shape of its input, and as its metadata say.

        Raises:
            ExportError: Neither says so.
        """
        shape, stated = self.session.get_inputs()[0].shape[1:], self.metadata
        channels, *size = [*shape[-1:], *shape[:-1]] if self.uint8_input else shape or [None]
        size = json.loads(stated["image_size"]) if "image_size" in stated else size
        if len(size) != 2 or not all(isinstance(side, int) for side in (channels, *size)):
            raise ExportError(f"{self.path} does not say which images it takes.", expected="an input of fixed size")
        found: dict[str, Any] = {"channels": channels, "image_size": tuple(size)}
        return found | ({"interpolation": stated["interpolation"]} if "interpolation" in stated else {})

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K) for pixels (N, C, H, W); a graph on bytes gets them rounded to 8 bits.

        Raises:
            ExportError: onnxruntime refuses the images, such as a graph whose batch has one size.
        """
        images = pixels.detach().cpu()
        if self.uint8_input:
            images = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        array = images.contiguous().numpy()
        try:
            return torch.from_numpy(self.session.run([self.output], {self.input: array})[0])
        except Exception as error:  # onnxruntime's own, which have no common base
            reason = " ".join(str(error).split())
            raise ExportError(
                f"{self.path.name} cannot be run on images of shape {tuple(images.shape)}: {reason}",
                expected="a graph whose batch may have any size",
                remedy="leave Python numbers such as len(x) out of the encoder's forward pass",
            ) from error
