"""The folder that a hardening run leaves behind: everything needed to serve, check, publish and reload the model."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from genaf_sdk.export.card import model_card, write_eval_results
from genaf_sdk.export.parity import check_parity, replay
from genaf_sdk.export.runtime import MODEL_FILE
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.export.variants import write_variants
from genaf_sdk.files import replacing, write_json
from genaf_sdk.models.storage import save_classifier

if TYPE_CHECKING:
    from genaf_sdk.models.classifier import Classifier
    from genaf_sdk.pipeline import HardenResult

LABELS_FILE, CHECKSUMS_FILE, CARD_FILE, SERVE_FOLDER = "labels.json", "checksums.json", "README.md", "serve"
UNLISTED = {CHECKSUMS_FILE}


def write_bundle(model: Classifier, folder: Path, result: HardenResult | None = None) -> Path:
    """Write a whole bundle.

    ``config.json`` and ``model.safetensors`` (for ``HardenedModel.from_pretrained``), ``model.onnx`` and its variants,
    ``labels.json``, ``report.json`` and ``perturbations/``, the model card, ``serve/`` (a server that needs no torch)
    and, last, ``checksums.json``: where it is, everything else is complete.

    Args:
        model: The classifier.
        folder: Where to write; it exists.
        result: The run that the model comes from. Without it there is no report, and no variant but fp32.

    Raises:
        ExportError: The ONNX file differs from the model.
        OutputError: The folder cannot be written.
    """
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)
    save_classifier(model, folder)
    path = export_onnx(model, folder / MODEL_FILE)
    images = torch.rand(5, model.encoder.channels, *model.image_size, generator=torch.Generator().manual_seed(0))
    parity = check_parity(model, path, images)
    write_json(folder / LABELS_FILE, list(model.class_names))
    report = result.report if result is not None else None
    if result is not None:
        samples, seed = result.config.evaluation.test_samples, result.config.seed
        perturbations = report.perturbations if report is not None else {}
        variants = write_variants(
            model, folder, result.data, perturbations, result.config.export, samples=samples, seed=seed
        )
        if report is not None:
            report.sections["onnx"] = {
                "parity": dataclasses.asdict(parity),
                "text": parity.text,
                "replay": replay(path, result.data, perturbations, samples=samples, seed=seed),
                "variants": [dataclasses.asdict(variant) for variant in variants],
            }
            report.save(folder)
            write_eval_results(folder, report)
    licence = "" if result is None else result.config.export.license
    _copy_server(folder)
    with replacing(folder / CARD_FILE) as temporary:
        temporary.write_text(model_card(model, report, licence=licence), encoding="utf-8")
    write_json(folder / CHECKSUMS_FILE, {"sha256": checksums(folder)})
    return folder


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every published file of a bundle, by its path inside the folder."""
    found = {}
    for path in published_files(folder):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return {name: digest for name, digest in found.items() if name not in UNLISTED}


def published_files(folder: Path) -> list[Path]:
    """Return what of a run's folder belongs to the bundle: not its training checkpoints, logs or temporary files."""
    kept = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith(".") and part != ".eval_results" for part in inside.parts)
        private = inside.parts[0] == "checkpoints" or "__pycache__" in inside.parts or path.suffix == ".jsonl"
        if path.is_file() and not hidden and not private:
            kept.append(path)
    return kept


def _copy_server(folder: Path) -> None:
    """Put the torch-free server into the bundle, as ``serve/``: unpacked beside it, then renamed."""
    source = Path(__file__).parent / SERVE_FOLDER
    partial, target = folder / f".{SERVE_FOLDER}.partial", folder / SERVE_FOLDER
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
