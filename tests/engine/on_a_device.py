"""Harden, compare, evaluate, certify and attack anew, on the processor and on an emulated device: both as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import emulated
import torch
from accelerate import PartialState
from training import TinyEncoder, stripes

import genaf_sdk.fresh_attacks as fresh_module
from genaf_sdk import HardenConfig, HardenedModel, compare, harden, load_encoder
from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.cli import main
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.models.heads import build_head
from genaf_sdk.verification import verify

PATCHES = ("encoder-patch:steps=2,grid=2,finalists=1", "patch-uap:steps=2,grid=2")
ATTACKS = ("uapgd:steps=2", "label-uap:steps=2", "feature-pgd:steps=2", "pgd:steps=2", *PATCHES)
CONFIG = HardenConfig().with_(
    baseline={"epochs": 1},
    method={
        "schedule": {"epochs": 5, "batch_size": 32, "encoder_learning_rate": 1e-2},
        "adaptability": {"probe_epochs": 0, "epochs": 1, "sensitivity": {"steps": 2, "samples": 32}},
    },
    export={"precisions": ()},
    evaluation={
        "attacks": ATTACKS,
        "surrogate_samples": 16,
        "sample_wise_samples": 8,
        "curve": (),
        "checks": False,
        "certificate": {"patch": 0.03, "samples": 4},
    },
)
IMAGES = DataSplits(
    *(LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((96, 30, 60))),
    class_names=("red", "green", "blue"),
    name="stripes",
)
SHORT = [*("--attacks", "uapgd:steps=2", "pgd:steps=2"), *("--surrogate-samples", "8", "--test-samples", "20")]


def computed(folder: Path, bundle: Path) -> dict[str, Any]:
    """Do everything; ``bundle`` is of an encoder that is there by name. Return what was found, and where."""
    devices: dict[str, set[str]] = {}

    def noting(part: str) -> Any:
        found = devices.setdefault(part, set())
        crafted, scored = UniversalAttack._craft, EvaluatedModel.logits

        def craft(attack: Any, target: Any, images: Any, *others: Any) -> Any:
            found.add(images.device.type)
            return crafted(attack, target, images, *others)

        def logits(model: Any, pixels: Any) -> Any:
            found.add(model.device.type)
            return scored(model, pixels)

        return patch.multiple(UniversalAttack, _craft=craft), patch.multiple(EvaluatedModel, logits=logits)

    def run(part: str, work: Any) -> Any:
        one, other = noting(part)
        with one, other:
            return work()

    def rows(scores: Any) -> list[Any]:
        return [[str(score.column), score.attack, str(score.model), score.accuracy] for score in scores]

    def told(*arguments: str) -> Any:
        out = io.StringIO()
        with patch("sys.stdout", out):
            code = main([*arguments, "--json"])
        return code, json.loads(out.getvalue())

    torch.manual_seed(0)
    encoder = TinyEncoder()
    whole = run("harden", lambda: harden(encoder, IMAGES, CONFIG, progress=False, output_dir=folder, preflight=False))
    method = {"fine-tuning": CONFIG.with_(method=HardenConfig.preset("fine-tuning").method, baseline={})}
    quick = EvaluationConfig(
        attacks=("uapgd:steps=2", "pgd:steps=2"), sample_wise_samples=4, surrogate_samples=16, curve=(), checks=False
    )
    compared = run("compare", lambda: compare(encoder, IMAGES, method, evaluation=quick, progress=False))
    short = replace(EvaluationConfig(), surrogate_samples=16, sample_wise_samples=4, patch_samples=2)
    again = ("uapgd:steps=2", "label-uap:steps=2", "pgd:steps=2")
    with patch.multiple(fresh_module, IMAGES=short, FRESH=again):
        verified = run("verify", lambda: verify(folder, IMAGES, fresh=True, seed=1, backbone=TinyEncoder()))
    evaluated = run("evaluate", lambda: told("evaluate", str(bundle), "--curve", "--no-checks", *SHORT))
    file = str(folder.with_suffix(".safetensors"))
    attacked = run("attack", lambda: told("attack", "uapgd:steps=2", "--samples", "8", "--output", file))
    return {
        "losses": [record["loss"] for record in whole.history],
        "harden": rows(whole.report.scores),
        "certified": whole.report.certificate.certified,
        "failures": [failure.text for failure in whole.report.failures],
        "compare": rows(compared.rows[0].scores),
        "fresh": [item.found for item in verified.items if item.what.startswith("fresh: ")],
        "evaluate": [evaluated[0], [score["accuracy"] for score in evaluated[1]["scores"]]],
        "attack": attacked[0],
        "encoder": [parameter.device.type for parameter in encoder.parameters()],
        "devices": {part: sorted(found) for part, found in devices.items()},
    }


if __name__ == "__main__":
    library, place = map(Path, sys.argv[1:])
    emulated.load(library)
    named = load_encoder("bundled:simclr-cifar10")
    head = build_head("mlp", named.feature_dim((16, 16)), 10)
    names = tuple("0123456789")
    bundle = HardenedModel(named, head, class_names=names, image_size=(16, 16)).save_pretrained(place / "named")
    found = []
    for name in ("cpu", "emulated:0"):
        PartialState._reset_state()
        os.environ["ACCELERATE_TORCH_DEVICE"] = name
        found.append(computed(place / name.partition(":")[0], bundle))
    (place / "found.json").write_text(json.dumps(found))
