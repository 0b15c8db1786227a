"""The exported file against the model it was made from: the same logits, and the same robustness."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk.data.sampling import Sample
from genaf_sdk.errors import ExportError
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.memory import give_back

if TYPE_CHECKING:
    from collections.abc import Mapping
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
        return parity_text(self.differences, self.tolerance)


def parity_text(differences: Mapping[int, float] | Mapping[str, float], tolerance: float) -> str:
    """Return the largest relative differences by batch size, and what passes, in one line."""
    parts = ", ".join(f"{value:.1e} (batch {size})" for size, value in differences.items())
    return f"Largest relative logit difference, ONNX against PyTorch: {parts}; threshold {tolerance:.0e}."


def check_parity(model: Classifier, path: str | Path, pixels: Tensor) -> Parity:
    """Compare logits at batch sizes 1, 2 and 5.

    Args:
        model: What was exported.
        path: The ONNX file.
        pixels: At least five images (N, C, H, W) in [0, 1].

    Raises:
        ExportError: A relative difference is larger than ``TOLERANCE``, or not a number.
    """
    onnx_model, reference = OnnxModel(path), copy.deepcopy(model).cpu().eval()
    differences = {}
    for size in BATCH_SIZES:
        batch = pixels[:size].cpu()
        with torch.no_grad():
            expected = reference(batch)
        differences[size] = relative_difference(onnx_model(batch), expected)
    parity = Parity(differences, TOLERANCE)
    if not all(value <= TOLERANCE for value in differences.values()):
        raise ExportError(f"The ONNX file {path} is not the model. {parity.text}", remedy="report this encoder")
    return parity


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two sets of logits (N, K), relative to the largest expected one (at least 1)."""
    return float((logits - expected).abs().max()) / max(1.0, float(expected.abs().max()))


def predictions(model: OnnxModel, sample: Sample, perturbations: Mapping[str, Perturbation]) -> dict[str, Tensor]:
    """Return the class of each image, int64 (N,), clean (empty name) and under every perturbation, by its name.

    The images are read once, in batches.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in ("", *perturbations)}
    for images, _ in sample.batches():
        parts[""].append(model(images).argmax(dim=1))
        for name, perturbation in perturbations.items():
            parts[name].append(model(perturbation.apply(images)).argmax(dim=1))
            give_back()
    return {name: torch.cat(found) for name, found in parts.items()}


def replay(
    path: str | Path, data: DataSplits, perturbations: Mapping[str, Perturbation], *, samples: int | None, seed: int
) -> list[dict[str, Any]]:
    """Score the ONNX file, through onnxruntime, on clean test images and under every saved perturbation.

    Returns:
        Rows of perturbation (empty for clean), n, correct and accuracy, on the images that the report's rows use.
    """
    sample = Sample.draw(data.test, samples, seed=seed)
    return counted(predictions(OnnxModel(path), sample, perturbations), sample.labels)


def counted(predicted: Mapping[str, Tensor], labels: Tensor) -> list[dict[str, Any]]:
    """Return rows of perturbation, n, correct and accuracy, for predicted classes (N,) and ``labels`` (N,)."""
    rows = []
    for name, classes in predicted.items():
        correct = int((classes == labels).sum())
        rows.append({"perturbation": name, "n": len(labels), "correct": correct, "accuracy": correct / len(labels)})
    return rows
