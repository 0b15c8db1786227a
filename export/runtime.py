"""An ONNX file as a callable on torch pixels, for parity and replay inside this package."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from genaf_sdk.errors import ExportError

MODEL_FILE = "model.onnx"


def require_one_onnxruntime() -> None:
    """Refuse to go on with both onnxruntime packages installed: they overwrite one another's files.

    Raises:
        ExportError: Both are installed; the error says how to mend it.
    """
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if len(found) > 1:
        raise ExportError(
            f"{' and '.join(found)} are both installed and overwrite one another's files.",
            expected="one of them",
            remedy="pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu (or onnxruntime)",
        )


class OnnxModel:
    """Runs ``model.onnx`` on the CPU with onnxruntime: pixels (N, C, H, W) in [0, 1] to logits (N, K), torch tensors.

    Args:
        path: The file, or the folder that holds ``model.onnx``.

    Raises:
        ExportError: The file is missing or onnxruntime cannot run it.
    """

    def __init__(self, path: str | Path) -> None:
        require_one_onnxruntime()
        self.path = Path(path) / MODEL_FILE if Path(path).is_dir() else Path(path)
        if not self.path.is_file():
            raise ExportError(f"There is no file {self.path}.", expected=f"an ONNX file, or a folder with {MODEL_FILE}")
        try:
            self.session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes share no public base
            raise ExportError(f"onnxruntime cannot load {self.path}: {error}") from error
        self.takes_bytes = self.session.get_inputs()[0].type == "tensor(uint8)"
        self.input, self.output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the logits; empty where the file does not say."""
        names: list[str] = json.loads(self.metadata.get("class_names", "[]"))
        return names

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return logits (N, K) for pixels (N, C, H, W); a graph on bytes gets them rounded to 8 bits."""
        images = pixels.detach().cpu()
        if self.takes_bytes:
            images = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
        array = images.contiguous().numpy()
        return torch.from_numpy(self.session.run([self.output], {self.input: array})[0])
