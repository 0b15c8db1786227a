from __future__ import annotations

import copy
from math import exp, log

import pytest
import torch
from torch import nn
from training import cpu_run, fine_tune, tiny_model

from genaf_sdk.data import DataSplits
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.stage import Outputs
from genaf_sdk.methods import MART, PGDAT, TRADES, LinearProbe

Logits = tuple[torch.Tensor, torch.Tensor]


def softmax(row: list[float]) -> list[float]:
    total = sum(exp(value) for value in row)
    return [exp(value) / total for value in row]


@pytest.fixture
def outputs() -> tuple[Outputs, Batch]:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(5, 3, generator=generator).double(), torch.randn(5, 3, generator=generator).double())
    return Outputs(logits, logits), Batch.whole(torch.zeros(5, 3, 2, 2), torch.tensor([0, 1, 2, 1, 0]))


def rows_of(outputs: Outputs, batch: Batch) -> list[tuple[list[float], list[float], int]]:
    adversarial, clean = (value.tolist() for value in outputs.logits)
    return list(zip(adversarial, clean, batch.labels.tolist(), strict=True))


def test_trades_is_its_equation(outputs: tuple[Outputs, Batch]) -> None:
    expected = []
    for adversarial, clean, label in rows_of(*outputs):
        p, q = softmax(clean), softmax(adversarial)
        expected.append(-log(p[label]) + 2.5 * sum(a * log(a / b) for a, b in zip(p, q, strict=True)))
    losses = TRADES(beta=2.5).losses(*outputs)
    assert losses.rows.tolist() == pytest.approx(expected, rel=1e-9)
    assert set(losses.terms) == {"clean", "divergence"}


def test_mart_is_its_equation(outputs: tuple[Outputs, Batch]) -> None:
    expected = []
    for adversarial, clean, label in rows_of(*outputs):
        p, q = softmax(clean), softmax(adversarial)
        boosted = -log(q[label]) - log(1 - max(value for index, value in enumerate(q) if index != label))
        expected.append(boosted + 5 * sum(a * log(a / b) for a, b in zip(p, q, strict=True)) * (1 - p[label]))
    assert MART(beta=5.0).losses(*outputs).rows.tolist() == pytest.approx(expected, rel=1e-9)


def test_mart_stays_finite_where_a_wrong_class_is_certain() -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    batch = Batch.whole(torch.zeros(1, 3, 2, 2), torch.tensor([0]))
    loss = MART().losses(Outputs((logits, logits), (logits, logits)), batch).rows.mean()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_a_linear_probe_leaves_the_encoder_as_it_was(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    model = tiny_model(tiny_encoder)
    before = copy.deepcopy(model.state_dict())
    fine_tune(LinearProbe().with_(schedule={"epochs": 2, "batch_size": 32}), cpu_run(), model, striped)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_pgd_at_passes_adversarial_images_alone(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    sizes = []
    model = tiny_model(tiny_encoder)
    model.encoder.register_forward_hook(
        lambda module, inputs, _: sizes.append(len(inputs[0])) if module.training else None
    )
    fine_tune(
        PGDAT().with_(schedule={"epochs": 1, "batch_size": 32, "encoder_learning_rate": 1e-3}),
        cpu_run(),
        model,
        striped,
    )
    assert set(sizes) == {32}
