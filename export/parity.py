"""The exported file against the model it was made from: the same logits, and the same robustness."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk.errors import ExportError
from genaf_sdk.export.runtime import OnnxModel

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from genaf_sdk.data import DataSplits
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.models.classifier import Classifier

BATCH_SIZES = (1, 2, 5)
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference of logits, relative to their largest absolute value (at least 1), by batch size."""

    differences: dict[int, float]
    tolerance: float

    @property
    def text(self) -> str:
        """One line for the terminal and the report."""
        parts = ", ".join(f"batch {size}: {value:.1e}" for size, value in self.differences.items())
        return f"logits of ONNX and torch differ by at most {parts} (threshold {self.tolerance:.0e})"


def check_parity(model: Classifier, path: str | Path, pixels: Tensor, *, tolerance: float = TOLERANCE) -> Parity:
    """Compare logits at batch sizes 1, 2 and 5.

    Args:
        model: What was exported.
        path: The ONNX file.
        pixels: At least five images (N, C, H, W) in [0, 1].
        tolerance: Largest relative difference that passes.

    Raises:
        ExportError: A difference is larger, or not a number.
    """
    onnx_model, reference = OnnxModel(path), copy.deepcopy(model).cpu().eval()
    differences = {}
    for size in BATCH_SIZES:
        batch = pixels[:size].cpu()
        with torch.no_grad():
            expected = reference(batch)
        scale = max(1.0, float(expected.abs().max()))
        differences[size] = float((onnx_model(batch) - expected).abs().max()) / scale
    parity = Parity(differences, tolerance)
    if not all(value <= tolerance for value in differences.values()):
        raise ExportError(f"The ONNX file {path} is not the model: {parity.text}.", remedy="report this encoder")
    return parity


def replay(
    path: str | Path, data: DataSplits, perturbations: dict[str, Perturbation], *, samples: int | None, seed: int
) -> list[dict[str, Any]]:
    """Score the ONNX file, through onnxruntime, on clean test images and under every saved perturbation.

    Returns:
        Rows of perturbation (empty for clean), n, correct and accuracy, on the images that the report's rows use.
    """
    model = OnnxModel(path)
    pixels, labels = data.test.head(samples, seed=seed)
    rows = []
    for name, perturbation in {"": None, **perturbations}.items():
        correct = 0
        for images, targets in zip(pixels.split(500), labels.split(500), strict=True):
            attacked = images if perturbation is None else perturbation.apply(images)
            correct += int((model(attacked).argmax(dim=1) == targets).sum())
        rows.append({"perturbation": name, "n": len(labels), "correct": correct, "accuracy": correct / len(labels)})
    return rows


def top1_agreement(first: str | Path, second: str | Path, pixels: Tensor) -> float:
    """Return the share of images (N, C, H, W) in [0, 1] to which two ONNX files give the same label."""
    one, other = OnnxModel(first), OnnxModel(second)
    same = sum(int((one(batch).argmax(dim=1) == other(batch).argmax(dim=1)).sum()) for batch in pixels.split(500))
    return same / len(pixels)
