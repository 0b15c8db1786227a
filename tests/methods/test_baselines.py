from __future__ import annotations

import copy
from dataclasses import replace
from math import exp, log

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F

from genaf_sdk.config import AdversaryConfig, DualTrackConfig, HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.stage import Run
from genaf_sdk.methods.adversary import DivergenceAdversary
from genaf_sdk.methods.baselines import mart_loss, trades_loss
from genaf_sdk.methods.gen_af import dual_track_finetuning
from genaf_sdk.models.classifier import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import Head


def new_model(encoder: nn.Module) -> HardenedModel:
    torch.manual_seed(0)
    return HardenedModel(PixelEncoder(encoder), Head(16, 3), class_names=("red", "green", "blue"), image_size=(16, 16))


def softmax(row: list[float]) -> list[float]:
    total = sum(exp(value) for value in row)
    return [exp(value) / total for value in row]


@pytest.fixture
def outputs() -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(5, 3, generator=generator).double(), torch.randn(5, 3, generator=generator).double())
    return logits, torch.tensor([0, 1, 2, 1, 0])


def test_trades_is_its_equation(outputs: tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    logits, labels = outputs
    expected = 0.0
    for adversarial, clean, label in zip(*(value.tolist() for value in logits), labels.tolist(), strict=True):
        p, q = softmax(clean), softmax(adversarial)
        expected += -log(p[label]) + 2.5 * sum(a * log(a / b) for a, b in zip(p, q, strict=True))
    loss, terms = trades_loss(logits, logits, labels, DualTrackConfig(divergence_weight=2.5))
    assert float(loss) == pytest.approx(expected / 5, rel=1e-9)
    assert set(terms) == {"clean", "divergence"}


def test_mart_is_its_equation(outputs: tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    logits, labels = outputs
    expected = 0.0
    for adversarial, clean, label in zip(*(value.tolist() for value in logits), labels.tolist(), strict=True):
        p, q = softmax(clean), softmax(adversarial)
        boosted = -log(q[label]) - log(1 - max(value for index, value in enumerate(q) if index != label))
        expected += boosted + 5 * sum(a * log(a / b) for a, b in zip(p, q, strict=True)) * (1 - p[label])
    loss, _ = mart_loss(logits, logits, labels, DualTrackConfig(divergence_weight=5.0))
    assert float(loss) == pytest.approx(expected / 5, rel=1e-9)


def test_mart_stays_finite_where_a_wrong_class_is_certain() -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss, _ = mart_loss((logits, logits), (logits, logits), torch.tensor([0]), DualTrackConfig())
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert logits.grad is not None
    assert bool(torch.isfinite(logits.grad).all())


def test_the_divergence_adversary_moves_the_prediction_whatever_the_label(tiny_encoder: nn.Module) -> None:
    model = new_model(tiny_encoder).eval().requires_grad_(False)
    config = AdversaryConfig(kind="pgd-kl", budget=16 / 255, step_size=8 / 255, steps=4)
    pixels = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def perturbed(labels: torch.Tensor) -> torch.Tensor:
        adversary = DivergenceAdversary(config)
        return adversary.perturb(model, Batch.whole(pixels, labels))

    adversarial = perturbed(torch.zeros(16, dtype=torch.long))
    assert torch.equal(adversarial, perturbed(torch.ones(16, dtype=torch.long)))
    noise = (pixels + torch.empty_like(pixels).uniform_(-16 / 255, 16 / 255)).clamp(0, 1)
    clean = model(pixels).log_softmax(1)

    def divergence(images: torch.Tensor) -> float:
        return float(F.kl_div(model(images).log_softmax(1), clean, log_target=True, reduction="batchmean"))

    assert divergence(adversarial) > 2 * divergence(noise)
    assert float((adversarial - pixels).abs().max()) <= 16 / 255 + 1e-6


def test_a_linear_probe_leaves_the_encoder_as_it_was(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    model = new_model(tiny_encoder)
    before = copy.deepcopy(model.state_dict())
    config = replace(quick_config.dual_track, epochs=2, freeze_encoder=True, adversary=AdversaryConfig(kind="none"))
    dual_track_finetuning(Run(Accelerator(cpu=True), show_progress=False), model, striped, config)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("head.") for name in changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_single_track_passes_adversarial_images_alone(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    sizes = []
    model = new_model(tiny_encoder)
    model.encoder.register_forward_hook(
        lambda module, inputs, _: sizes.append(len(inputs[0])) if module.training else None
    )
    config = replace(HardenConfig.preset("pgd-at").dual_track, epochs=1, batch_size=32, encoder_learning_rate=1e-2)
    assert config.is_single_track
    dual_track_finetuning(Run(Accelerator(cpu=True), show_progress=False), model, striped, config)
    assert set(sizes) == {32}
