"""Which encoders work from end to end: the table in docs/encoders.md.

    python benchmarks/encoders_table.py [PART_OF_A_NAME ...] [--rows encoders.jsonl] [--into docs/encoders.md]

Every encoder has random weights and small images, as this is a check of the code and of no accuracy. Columns: features
found by the dry run; two training steps of stage 1 (the loss is finite, and nearly every tensor of weights moved);
robust sensitivity (number of layers measured); one attack on the encoder (UAPGD, 20 steps, 10/255; how much further, by
the mean of 1 - cosine, which is what it ascends, it turns the features than random signs of the same budget do: a
figure, and no condition, as strength against untrained weights says nothing; the gradient and the budget are
conditions); ONNX export (largest difference of the logits of 16 images, relative to how far an image's logits are from
their mean over the images: what does not depend on the image cannot hide it).

Rows that passed are kept in the file ``--rows``, and not measured again with the same versions of the packages; after a
change of this package's code name another file. ``--workers`` processes share them. Exits with 1 if any row failed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import logging
import math
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from encoder_candidates import CANDIDATES, Candidate
from rows import Row, Rows
from torch import nn
from torch.nn import functional as F

from genaf_sdk.attacks import UAPGD
from genaf_sdk.cells import Cells
from genaf_sdk.data import DataSplits, load_data
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.engine.train import train
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import GenAF
from genaf_sdk.methods.lab import Lab
from genaf_sdk.methods.sensitivity import Sensitivity, robust_sensitivity
from genaf_sdk.models.heads import build_head

if TYPE_CHECKING:
    from genaf_sdk.models.encoder import PixelEncoder

PARITY = 1e-3  # largest difference of the logits, relative to their spread over the images
MOVED = 0.9  # least share of the tensors that training has to move
HEADER = ["family", "encoder", "image", "weights", "features", "tensors moved", "layers", "attack", "ONNX"]
KEY = ("family", "name", "image", "options", "versions")
PACKAGES = ("genaf-sdk", "torch", "torchvision", "timm", "transformers", "onnxruntime", "onnxruntime-gpu")
MARKS = ("<!-- encoders_table: begin -->", "<!-- encoders_table: end -->")


def images_for(encoder: PixelEncoder, size: tuple[int, int]) -> DataSplits:
    """Three classes of blurred noise, different in brightness."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(count) % 3
        coarse = torch.rand(count, encoder.channels, 8, 8, generator=generator)
        pixels = F.interpolate(coarse, size, mode="bilinear") * 0.6 + labels.view(-1, 1, 1, 1) * 0.2
        return pixels, labels

    return load_data([part(16), part(6), part(24)], channels=encoder.channels)


@torch.no_grad()
def settle(encoder: PixelEncoder, pixels: torch.Tensor) -> None:
    """Let BatchNorm measure its statistics; with those it starts with, deep random layers say the same of any image."""
    norms = [layer for layer in encoder.modules() if isinstance(layer, nn.BatchNorm2d)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    encoder.train()(pixels)
    encoder.eval()
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum


def turned(clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine between features (N, D); in double precision, as it may be tiny."""
    return (1 - F.cosine_similarity(clean.double(), moved.double())).mean()


def row(candidate: Candidate, folder: Path) -> list[str]:
    """Run every step; the first that fails raises."""
    encoder = candidate.load()
    data = images_for(encoder, candidate.size)
    settle(encoder, data.train.sample()[0])
    features = encoder.feature_dim(candidate.size)
    model = HardenedModel(
        copy.deepcopy(encoder), build_head("mlp", features, 3), class_names=data.class_names, image_size=candidate.size
    )
    run = Run(Accelerator(cpu=True), seed=0, show_progress=False)
    before = copy.deepcopy(model.encoder.backbone.state_dict())
    method = GenAF(schedule=Schedule(epochs=1, batch_size=8))
    train(run, model, data, Lab(run, model, data).stage("stage 1", method))
    moved = sum(not torch.equal(value, before[name]) for name, value in model.encoder.backbone.named_parameters())
    total = sum(1 for _ in model.encoder.backbone.parameters())
    if moved < MOVED * total:
        raise RuntimeError(f"only {moved} of {total} weights moved in training")
    pixels, labels = data.train.sample(8)
    rises = robust_sensitivity(model, pixels, labels, Sensitivity(steps=1, samples=8))
    perturbation = UAPGD(steps=20, batch_size=8)(encoder, pixels)
    noise = torch.randn(perturbation.values.shape, generator=torch.Generator().manual_seed(0)).sign()
    with torch.no_grad():
        clean = encoder(pixels)
        attacked, shaken = encoder(perturbation.apply(pixels)), encoder((pixels + 10 / 255 * noise).clamp(0, 1))
    gain = float(turned(clean, attacked) / turned(clean, shaken))
    shown = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(turned(clean, encoder(shown * 0.9)), shown)
    if not (torch.isfinite(gradient).all() and gradient.abs().max() > 0 and math.isfinite(gain)):
        raise RuntimeError("the features give the attack no gradient")
    if float(perturbation.values.abs().max()) > 10 / 255 + 1e-6:
        raise RuntimeError("the perturbation is larger than its budget")
    path = export_onnx(model, folder / "model.onnx")
    images, _ = data.test.sample(16)
    with torch.no_grad():
        expected = model(images)
    spread = (expected - expected.mean(0)).abs().max()
    difference = float((OnnxModel(path)(images) - expected).abs().max() / spread)
    if not difference <= PARITY:
        raise RuntimeError(f"logits of the ONNX file differ by {difference:.1e}")
    parameters = sum(parameter.numel() for parameter in encoder.parameters()) / 1e6
    height, width = candidate.size
    return [
        candidate.family,
        f"`{candidate.name}`",
        f"{candidate.channels} x {height} x {width}",
        f"{parameters:.1f} M",
        str(features),
        f"{moved} of {total}",
        str(len(rises)),
        f"{gain:.1f} x",
        f"{difference:.0e}",
    ]


def table(rows: list[list[str]]) -> str:
    """Return the rows as Markdown; a failed one is shorter."""
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def insert(text: str, path: Path) -> None:
    """Put ``text`` between the two marks in a file."""
    content = path.read_text(encoding="utf-8")
    before, after = content.partition(MARKS[0])[0], content.partition(MARKS[1])[2]
    path.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("containing", nargs="*", help="only encoders whose name or family contains one of these")
    parser.add_argument("--rows", type=Path, default=Path("encoders.jsonl"), help="file that rows are kept in")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the rows")
    parser.add_argument("--into", type=Path, help="Markdown file that the table is put into, between its marks")
    return parser.parse_args()


def key_of(candidate: Candidate) -> Row:
    """Return all that a row depends on, but for the code: the encoder, its images, and the versions that build it."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "family": candidate.family,
        "name": candidate.name,
        "image": [candidate.channels, *candidate.size],
        "options": candidate.options,
        "versions": versions,
    }


def measured(index: int) -> Row:
    """Return the row of a candidate, but for its key: a worker's cell."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cells = row(CANDIDATES[index], Path(folder))
    return {"cells": cells, "seconds": round(time.monotonic() - begun, 1)}


def main() -> int:
    wanted = arguments()
    kept = Rows(wanted.rows, KEY)
    chosen = {
        index: key_of(candidate)
        for index, candidate in enumerate(CANDIDATES)
        if not wanted.containing or any(text in f"{candidate.family}: {candidate.name}" for text in wanted.containing)
    }
    failed: dict[int, list[str]] = {}
    with (
        ProcessPoolExecutor(wanted.workers, get_context("spawn")) as pool,
        Cells[partial[Row]](pool) as cells,
    ):
        for index, key in chosen.items():
            if not kept.has(**key):
                cells.submit(partial(measured, index))
        for cell, result in cells:
            (index,) = cell.args
            key = chosen[index]
            if isinstance(result, Exception):
                reason = f"FAILED: {type(result).__name__}: {result}"[:300]
                failed[index] = [key["family"], f"`{key['name']}`", reason]
                print(failed[index], file=sys.stderr)
                continue
            kept.add(key | result)
            print(f"{key['family']}: {key['name']}: {result['seconds']} s", file=sys.stderr)
    passed = {index: kept.of(**key)[0] for index, key in chosen.items() if index not in failed}
    rows = [failed[index] if index in failed else passed[index]["cells"] for index in chosen]
    seconds = sum(row["seconds"] for row in passed.values())
    said = f"{len(passed)} of {len(rows)} encoders passed, in {seconds:.0f} s on one thread"
    text = f"{table(rows)}\n\n{said}, torch {torch.__version__.partition('+')[0]}."
    print(text)
    if wanted.into is not None:
        insert(text, wanted.into)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
