"""The folder that a hardening run leaves behind: everything needed to serve, check, publish and reload the model."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from genaf_sdk.data.sampling import mask_color
from genaf_sdk.errors import ExportError, OutputError
from genaf_sdk.export.bill import can_write_bill, write_bill
from genaf_sdk.export.card import ModelFacts, eval_results, model_card
from genaf_sdk.export.integrity import seal
from genaf_sdk.export.layout import (
    CARD_FILE,
    CHECKSUMS_FILE,
    EVAL_RESULTS_FILE,
    LABELS_FILE,
    MODEL_FILE,
    SERVE_FOLDER,
)
from genaf_sdk.export.parity import check_parity, replay
from genaf_sdk.export.staging import replacing_bundle, require_free
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.export.variants import write_variants
from genaf_sdk.files import replacing, write_json
from genaf_sdk.models.storage import save_classifier
from genaf_sdk.report.scores import Failure

if TYPE_CHECKING:
    from genaf_sdk.data import DataSplits
    from genaf_sdk.models.classifier import Classifier
    from genaf_sdk.report.robustness import RobustnessReport


class Run(Protocol):
    """What a bundle has to know of the run that its model comes from; a ``HardenResult`` is one."""

    report: RobustnessReport | None
    data: DataSplits
    config: Any


def save_model(model: Classifier, folder: Path) -> None:
    """Write the model alone, as soon as it is trained; an older bundle in the folder goes.

    Raises:
        OutputError: The folder cannot be written.
    """
    with replacing_bundle(folder) as partial:
        save_classifier(model, partial)


def save_report(report: RobustnessReport, folder: Path) -> None:
    """Write the report and its perturbations beside what ``save_model`` wrote, as soon as they are measured.

    Raises:
        OutputError: The folder cannot be written, or holds a whole bundle, which has a report of its own.
    """
    if (folder / CHECKSUMS_FILE).exists():
        raise OutputError(
            f"{folder} holds a whole bundle, whose report would be replaced.",
            expected="a folder of its own",
            remedy="choose another output folder",
        )
    report.save(folder)


def write_bundle(model: Classifier, folder: Path, result: Run | None = None) -> Path:
    """Write a whole bundle, or nothing.

    ``config.json`` and ``model.safetensors`` (for ``HardenedModel.from_pretrained``), ``model.onnx`` and its variants,
    ``labels.json``, ``report.json`` and ``perturbations/``, the model card, ``serve/`` (a server that needs no torch)
    ``bom.cdx.json`` (a bill of materials, where the extra ``signing`` is installed) and ``checksums.json``, which lists
    all of them. All is written beside an older bundle in the folder, whose files
    then make room for the new ones. A variant that cannot be exported is named in the report's ``failures``.

    Args:
        model: The classifier.
        folder: Where to write.
        result: The run that the model comes from. Without it there is no report, and no variant but fp32.

    Returns:
        ``folder``.

    Raises:
        ExportError: ``model.onnx`` cannot be made, or differs from the model. The model and the report, which names the
            failure, are in the folder nevertheless.
        OutputError: The folder cannot be written, or holds a README.md or serve/ of the user's; an older bundle is as
            it was.
    """
    report = None if result is None else result.report
    require_free(folder)
    try:
        with replacing_bundle(folder) as partial:
            save_classifier(model, partial)
            _write_graphs(model, partial, result)
            if report is not None:
                report.save(partial)
                results = eval_results(report)
                if results is not None:
                    _write_text(partial / EVAL_RESULTS_FILE, results)
            facts = ModelFacts.of(model)
            license_id = "" if result is None else str(result.config.export.license)
            _write_text(partial / CARD_FILE, model_card(facts, report, license_id=license_id))
            write_json(partial / LABELS_FILE, list(model.class_names))
            _copy_server(partial)
            if can_write_bill():
                write_bill(partial, facts.encoder, report, license_id=license_id)
            seal(partial)
    except OutputError:
        raise
    except Exception as caught:  # exporters raise whatever their authors chose; what was trained and measured stays
        error = caught if isinstance(caught, ExportError) else _unfinished(caught)
        with replacing_bundle(folder) as partial:
            save_classifier(model, partial)
            if report is not None:
                report.failures = [f for f in report.failures if (f.part, f.name) != ("export", MODEL_FILE)]
                report.failures.append(Failure("export", MODEL_FILE, error.problem))
                report.save(partial)
        if error is caught:
            raise
        raise error from caught
    return folder


def _unfinished(error: Exception) -> ExportError:
    return ExportError(f"The bundle cannot be completed: {type(error).__name__}: {error}")


def _write_graphs(model: Classifier, folder: Path, result: Run | None) -> None:
    color = () if result is None else mask_color(result.data.train, result.config.seed)
    path = export_onnx(model, folder / MODEL_FILE, color=color)
    images = torch.rand(5, model.encoder.channels, *model.image_size, generator=torch.Generator().manual_seed(0))
    parity = check_parity(model, path, images)
    if result is None:
        return
    report, config = result.report, result.config
    samples = config.evaluation.test_samples
    seed = report.seed if report is not None else config.seed
    perturbations = report.perturbations if report is not None else {}
    reference = replay(path, result.data, perturbations, samples=samples, seed=seed)
    failures: list[Failure] = []
    variants = write_variants(
        model, folder, result.data, perturbations, config.export,
        samples=samples, seed=seed, reference=reference, failures=failures,
    )  # fmt: skip
    if report is not None:
        report.failures = [failure for failure in report.failures if failure.part != "export"] + failures
        section = {
            "parity": {**asdict(parity), "differences": {str(k): v for k, v in parity.differences.items()}},
            "text": parity.text,
            "replay": reference,
            "variants": [asdict(variant) for variant in variants],
        }
        report.complete({"onnx": section})


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _copy_server(folder: Path) -> None:
    """Put the torch-free server into the bundle, as ``serve/``."""
    source = Path(__file__).parent / SERVE_FOLDER
    shutil.copytree(source, folder / SERVE_FOLDER, ignore=shutil.ignore_patterns("__pycache__"))
