"""One real bundle on the bundled encoder, made once, and a copy of it for every test that changes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from export_helpers import Made
from torch.nn import functional as F

from genaf_sdk import HardenedModel, evaluate, load_data, load_encoder
from genaf_sdk.data import DataSplits
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.settings import ExportConfig
from genaf_sdk.models.classifier import describe_architecture
from genaf_sdk.models.heads import build_head
from genaf_sdk.result import provenance


@pytest.fixture(scope="session")
def digits() -> DataSplits:
    return load_data("digits", image_size=(16, 16), interpolation="bilinear")


@pytest.fixture(scope="session")
def made(digits: DataSplits) -> Made:
    """A head that learned digits in seconds, and what three attacks make of it."""
    torch.manual_seed(0)
    encoder = load_encoder("bundled:simclr-cifar10")
    head = build_head("mlp", encoder.feature_dim((16, 16)), 10)
    model = HardenedModel(encoder, head, class_names=digits.class_names, image_size=(16, 16)).eval()
    pixels, labels = digits.train.sample(600, seed=0)
    with torch.no_grad():
        features = encoder(pixels)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(head(features), labels).backward()
        optimizer.step()
    settings = EvaluationConfig(
        attacks=("uapgd:steps=8", "advencoder-pat:epochs=1,batch_size=32", "pgd:steps=2"),
        surrogate_samples=32,
        sample_wise_samples=30,
        curve=(10 / 255, 16 / 255),
        checks=False,
    )
    report = evaluate(model.eval(), digits, encoder=load_encoder("bundled:simclr-cifar10"), config=settings)
    assert not report.failures
    config = SimpleNamespace(evaluation=settings, export=ExportConfig(precisions=("fp16",), tolerance=1.0), seed=0)
    stated = {"seed": 0, "validation_fraction": 0.15, "loading": {"balance": "none"}, "export": {"license": "mit"}}
    stated |= {"evaluation": settings.to_dict()}
    config.export = config.export.with_(license="mit")
    what = provenance(load_encoder("bundled:simclr-cifar10"), digits, stated)
    report.complete({"config": stated, "model": describe_architecture(model), "provenance": what})
    return Made(model, report, digits, config)


@pytest.fixture(scope="session")
def sound(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(made.model, tmp_path_factory.mktemp("sound") / "bundle", made)


@pytest.fixture
def forged(sound: Path, tmp_path: Path) -> Path:
    """A copy, for a forger."""
    return Path(shutil.copytree(sound, tmp_path / "forged"))
