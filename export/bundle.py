"""The folder that a hardening run leaves behind: everything needed to serve, check and reload the model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from genaf_sdk.export.parity import check_parity, replay
from genaf_sdk.export.runtime import MODEL_FILE
from genaf_sdk.export.to_onnx import export_onnx

if TYPE_CHECKING:
    from pathlib import Path

    from genaf_sdk.pipeline import HardenResult


def write_bundle(result: HardenResult, folder: Path) -> Path:
    """Write ``config.json``, ``model.safetensors``, ``model.onnx``, ``report.json`` and ``perturbations/``.

    The report is written last: where it is, everything else is complete.

    Raises:
        ExportError: The ONNX file differs from the model.
        OutputError: The folder cannot be written.
    """
    result.model.save_pretrained(folder)
    path = export_onnx(result.model, folder / MODEL_FILE)
    pixels, _ = result.data.test.head(5)
    parity = check_parity(result.model, path, pixels)
    if result.report is not None:
        report = result.report
        rows = replay(
            path,
            result.data,
            report.perturbations,
            samples=result.config.evaluation.test_samples,
            seed=report.seed,
        )
        report.sections["onnx"] = {"parity": dataclasses.asdict(parity), "text": parity.text, "replay": rows}
        report.save(folder)
    return folder
