"""Smaller and faster ONNX files beside the fp32 one, each kept only if it is as accurate and as robust."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk.data.sampling import Sample, mask_color
from genaf_sdk.errors import ExportError
from genaf_sdk.export.layout import MODEL_FILE, variant_file
from genaf_sdk.export.parity import counted, predictions, replay
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.to_onnx import INPUT, export_onnx
from genaf_sdk.files import output_errors
from genaf_sdk.report.scores import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from genaf_sdk.data import DataSplits
    from genaf_sdk.export.settings import ExportConfig
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.models.classifier import Classifier

CALIBRATION_IMAGES, CALIBRATION_BATCH = 256, 32


@dataclass(frozen=True)
class Variant:
    """A file that was tried.

    Args:
        file: Its name in the bundle.
        written: Whether it was kept.
        agreement: Share of the clean test images on which its label is that of the fp32 file.
        largest_loss: Largest loss of accuracy against the fp32 file, clean or under a perturbation; a share.
        replay: Accuracy on clean images and under every saved perturbation.
        bytes: Size of the file.
    """

    file: str
    written: bool
    agreement: float
    largest_loss: float
    replay: list[dict[str, Any]]
    bytes: int


def write_variants(
    model: Classifier,
    folder: Path,
    data: DataSplits,
    perturbations: Mapping[str, Perturbation],
    config: ExportConfig,
    *,
    samples: int | None,
    seed: int,
    reference: list[dict[str, Any]] | None = None,
    failures: list[Failure] | None = None,
) -> list[Variant]:
    """Write the variants that ``config`` asks for, and keep those whose accuracies fall by no more than its tolerance.

    Args:
        model: The classifier.
        folder: Holds ``model.onnx``, the fp32 file.
        data: Calibration takes training images, the replay test images.
        perturbations: The report's, by name.
        config: Which variants, and the tolerance.
        samples: How many test images; None is all.
        seed: Of their order, as in the report.
        reference: What ``replay`` found of the fp32 file; None measures it.
        failures: Where a variant that cannot be made or run is noted; None raises instead.

    Raises:
        ExportError: A variant cannot be exported or run.
        OutputError: The folder cannot be written.
    """
    sample = Sample.draw(data.test, samples, seed=seed)
    if reference is None:
        reference = replay(folder / MODEL_FILE, data, perturbations, samples=samples, seed=seed)
    labels = predictions(OnnxModel(folder / MODEL_FILE), sample, {})[""]
    variants = []
    for name in [*config.precisions, *(["uint8"] if config.uint8_input else [])]:
        target = folder / variant_file(name)
        target.unlink(missing_ok=True)  # an older file would not be the one that is measured
        with output_errors(target), tempfile.TemporaryDirectory(dir=folder, prefix=".variant-") as scratch:
            made = Path(scratch) / target.name
            try:
                _make(model, folder / MODEL_FILE, made, name, data, seed)
                variant = OnnxModel(made)
                finite = _is_finite(variant, data)
                found = predictions(variant, sample, perturbations)
            except ExportError as error:
                if failures is None:
                    raise
                failures.append(Failure("export", target.name, error.problem))
                continue
            rows = counted(found, sample.labels)
            loss = max(one["accuracy"] - other["accuracy"] for one, other in zip(reference, rows, strict=True))
            agreement = float((found[""] == labels).float().mean())
            kept = finite and loss <= config.tolerance
            if not finite and failures is not None:
                problem = "It gives NaN or infinity for a black, a white or a noisy image."
                failures.append(Failure("export", target.name, problem))
            variants.append(Variant(target.name, kept, agreement, loss, rows, made.stat().st_size))
            if kept:
                made.replace(target)
    return variants


def _is_finite(variant: OnnxModel, data: DataSplits) -> bool:
    """Run black, white and noisy images: half precision overflows on some inputs alone."""
    images = torch.rand(3, *data.image_shape, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0.0, 1.0
    return bool(torch.isfinite(variant(images)).all())


def _make(model: Classifier, source: Path, target: Path, name: str, data: DataSplits, seed: int) -> None:
    if name == "int8":
        _quantize(source, target, data.train.sample(CALIBRATION_IMAGES, seed=seed)[0])
    else:
        color = mask_color(data.train, seed)
        export_onnx(model, target, half=name == "fp16", uint8_input=name == "uint8", color=color)


def _quantize(source: Path, target: Path, pixels: Tensor) -> None:
    """Static int8 quantization (QDQ, one scale a channel), calibrated on ``pixels`` (N, C, H, W) in [0, 1]."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(pixels.split(CALIBRATION_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    logging.getLogger().addFilter(_quiet)
    try:
        prepared = target.with_suffix(".prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().removeFilter(_quiet)


def _quiet(record: logging.LogRecord) -> bool:
    """Drop onnxruntime's advice to pre-process, which was done."""
    return "pre-process" not in record.getMessage()
