from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.config import AdversaryConfig, DualTrackConfig, HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.checkpoints import Checkpoints
from genaf_sdk.engine.stage import Run
from genaf_sdk.engine.train import accuracy
from genaf_sdk.errors import TrainingError
from genaf_sdk.methods.adversary import MixedAdversary, SampleWiseAdversary, ascend
from genaf_sdk.methods.gen_af import dual_track_finetuning, dual_track_loss
from genaf_sdk.methods.genetic import genetic_regularization
from genaf_sdk.models.classifier import HardenedModel
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import Head


def new_model(encoder: nn.Module) -> HardenedModel:
    torch.manual_seed(0)
    return HardenedModel(PixelEncoder(encoder), Head(16, 3), class_names=("red", "green", "blue"), image_size=(16, 16))


def new_run() -> Run:
    return Run(Accelerator(cpu=True), seed=0, show_progress=False)


def test_the_loss_is_the_sum_of_its_weighted_terms() -> None:
    torch.manual_seed(0)
    features = (torch.randn(6, 4), torch.randn(6, 4))
    logits = (torch.randn(6, 3), torch.randn(6, 3))
    labels = torch.arange(6) % 3
    config = DualTrackConfig(adversarial_weight=0.5, clean_weight=2.0, genetic_weight=3.0, alignment_weight=0.7)

    loss, terms = dual_track_loss(features, logits, labels, config)

    clean = F.cross_entropy(logits[1], labels, reduction="none")
    genetic = genetic_regularization(*features, labels, weight=clean)
    cosines = [F.cosine_similarity(a, b, dim=0) for a, b in zip(*features, strict=True)]
    alignment = 1 - torch.stack(cosines).mean()
    expected = 0.5 * F.cross_entropy(logits[0], labels) + 2 * clean.mean() + 3 * genetic + 0.7 * alignment
    torch.testing.assert_close(loss, expected)
    assert set(terms) == {"adversarial", "clean", "genetic", "alignment"}


def test_ascend_is_pgd_and_touches_no_weight(tiny_encoder: nn.Module) -> None:
    model = new_model(tiny_encoder).train()
    pixels, labels = torch.rand(5, 3, 16, 16), torch.arange(5) % 3
    start = torch.empty_like(pixels).uniform_(-0.02, 0.02)

    adversarial, first = ascend(model, pixels, labels, start, 0.03, 0.01, 3)

    reference = copy.deepcopy(model).eval()
    x = (pixels + start).clamp(0, 1)
    for step in range(3):
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(reference(x), labels, reduction="sum"), x)
        if step == 0:
            torch.testing.assert_close(first, gradient)
        x = torch.min(torch.max(x.detach() + 0.01 * gradient.sign(), pixels - 0.03), pixels + 0.03).clamp(0, 1)
    torch.testing.assert_close(adversarial, x)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["pgd", "mixed"])
def test_adversarial_images_raise_the_loss_within_the_budget(kind: str, tiny_encoder: nn.Module) -> None:
    model = new_model(tiny_encoder).eval()
    config = AdversaryConfig(kind=kind, sample_wise_share=1.0, patch_share=0.0, budget=8 / 255)  # type: ignore[arg-type]
    adversary = {"pgd": SampleWiseAdversary, "mixed": MixedAdversary}[kind](config)
    pixels, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 3

    adversarial = adversary.perturb(model, Batch.whole(pixels, labels))

    assert float((adversarial - pixels).abs().max()) <= 8 / 255 + 1e-6
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1
    with torch.no_grad():
        assert F.cross_entropy(model(adversarial), labels) > F.cross_entropy(model(pixels), labels)


def mixed_step(adversary: MixedAdversary, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    adversarial = adversary.perturb(model, Batch.whole(pixels, labels))
    F.cross_entropy(model(adversarial), labels).backward()
    adversary.learn()
    return adversarial.detach()


def test_the_mixed_adversary_deals_out_its_three_shares(tiny_encoder: nn.Module) -> None:
    model = new_model(tiny_encoder).eval()
    config = AdversaryConfig(sample_wise_share=0.5, patch_share=0.25, bank_size=2, patch_area=0.06)
    adversary = MixedAdversary(config)
    pixels, labels = torch.full((16, 3, 16, 16), 0.5), torch.arange(16) % 3

    changes = (mixed_step(adversary, model, pixels, labels) - pixels).abs()

    assert float(changes[:8].amax()) <= 8 / 255 + 1e-6
    side = 4  # 6 % of 256 pixels
    assert [int((change.sum(0) > 0).sum()) for change in changes[8:12]] == [side * side] * 4
    assert float(changes[12:].amax()) <= config.universal_budget + 1e-6
    assert len({tuple(change.flatten().tolist()) for change in changes[12:]}) == 2  # two perturbations are shared


def test_the_bank_learns_to_raise_the_loss(tiny_encoder: nn.Module) -> None:
    model = new_model(tiny_encoder).eval().requires_grad_(False)
    config = AdversaryConfig(sample_wise_share=0.0, patch_share=0.0, bank_size=1, redraw_every=1000)
    adversary = MixedAdversary(config)
    pixels, labels = torch.rand(32, 3, 16, 16), torch.arange(32) % 3
    losses = []
    for _ in range(12):
        perturbed = mixed_step(adversary, model, pixels, labels)
        losses.append(float(F.cross_entropy(model(perturbed), labels)))
    assert losses[-1] > losses[0]
    assert float(adversary.state()["perturbations"].abs().max()) <= adversary.config.universal_budget + 1e-6


def test_hardening_beats_ordinary_finetuning_under_pgd(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    ordinary, hardened = new_model(copy.deepcopy(tiny_encoder)), new_model(copy.deepcopy(tiny_encoder))
    adversary = AdversaryConfig(kind="pgd", budget=24 / 255, step_size=6 / 255, steps=5)
    config = replace(quick_config.dual_track, epochs=40, adversary=adversary)
    dual_track_finetuning(new_run(), ordinary, striped, replace(config, adversary=AdversaryConfig(kind="none")))
    dual_track_finetuning(new_run(), hardened, striped, config)

    pixels, labels = striped.test.head()

    def robust(model: nn.Module) -> float:
        start = torch.zeros_like(pixels)
        adversarial, _ = ascend(model, pixels, labels, start, 24 / 255, 6 / 255, 10)
        return float((model(adversarial).argmax(1) == labels).float().mean())

    assert accuracy(hardened, striped.test, torch.device("cpu")) > 0.9
    assert robust(hardened) > robust(ordinary) + 0.1


def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    states = []
    for _ in range(2):
        model = new_model(copy.deepcopy(tiny_encoder))
        dual_track_finetuning(new_run(), model, striped, replace(quick_config.dual_track, epochs=2))
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path
) -> None:
    class Poisoned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = tiny_encoder, 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return self.inner(x) * (float("nan") if self.calls == 5 else 1.0)

    run = new_run()
    run.checkpoints = Checkpoints(tmp_path)
    config = replace(quick_config.dual_track, epochs=3, adversary=AdversaryConfig(kind="none"))
    with pytest.raises(TrainingError, match=r"step 5 \(epoch 2\)"):
        dual_track_finetuning(run, new_model(Poisoned()), striped, config)
    assert [path.name for path in (tmp_path / "stage-1").iterdir()] == ["00000003"]  # finite: the first epoch's
