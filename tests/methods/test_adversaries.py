"""What methods train against: PGD, and the mixture of a bank and sample-wise steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training import tiny_model

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.inputs.patches import plain_patches
from genaf_sdk.methods import PGD, Masked, Mixture, bank, mixture
from genaf_sdk.methods.against import Against
from genaf_sdk.methods.mixture import MixtureAdversary
from genaf_sdk.methods.steps import ascend, input_gradient


def adversary_of(against: Against) -> Any:
    return against.adversary(0, ALONE)


def test_a_confident_model_has_gradients_in_half_precision_too() -> None:
    """Without a scale most are less than the least number that float16 holds, and those pixels stay where they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        model[-1].weight.normal_(std=0.1)
        model[-1].bias.copy_(torch.tensor([7.0, 0.0, 0.0, 0.0]))
    labels, steps = torch.zeros(2, dtype=torch.int64), PGD(epsilon=0.03, step_size=0.01, steps=1)
    exact, slope = ascend(model, pixels, labels, torch.zeros_like(pixels), steps)
    with torch.autocast("cpu", torch.float16):
        found, rough = ascend(model, pixels, labels, torch.zeros_like(pixels), steps)
        again = input_gradient(model, pixels, labels)
    assert float(slope.abs().median()) < 6e-8
    assert torch.equal(found, exact)
    torch.testing.assert_close(rough, slope, rtol=0.05, atol=1e-9)
    torch.testing.assert_close(again, slope, rtol=0.05, atol=1e-9)


class OldFashioned(nn.Module):
    """Flattens by ``view(len(x), -1)``, which fails without images."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.encoder(x)
        return features.view(len(x), -1)


@pytest.mark.parametrize(
    "against",
    [
        Mixture(sample_wise_share=0.5, patch_share=0.25, patch_aim=1.0),
        Masked(inner=None, share=0.0, candidates=2),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_an_encoder_that_takes_no_empty_batch_is_given_none(
    against: Against, processes: int, tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rows of a batch, as a micro-batch has them, may all be of one share."""

    def gathered(_: Processes, values: Tensor, rows: Tensor, total: int) -> Tensor:
        return values.new_zeros(total, *values.shape[1:]).index_copy(0, rows, values)

    monkeypatch.setattr(Processes, "all_gather_rows", gathered)
    monkeypatch.setattr(Processes, "all_reduce", lambda _, value: value)
    model, several = tiny_model(OldFashioned(tiny_encoder)), Processes(0, processes)
    pixels, labels = torch.rand(2, 3, 16, 16), torch.zeros(2, dtype=torch.int64)
    adversary = against.adversary(0, several)
    images = adversary.perturb(model, Batch(pixels, labels, torch.tensor([6, 7]), total=8, processes=several))
    assert images.shape == pixels.shape
    adversary.update()


def test_ascend_is_pgd_and_touches_no_weight(tiny_encoder: nn.Module) -> None:
    model = tiny_model(tiny_encoder).train()
    pixels, labels = torch.rand(5, 3, 16, 16), torch.arange(5) % 3
    start = torch.empty_like(pixels).uniform_(-0.02, 0.02)

    adversarial, first = ascend(model, pixels, labels, start, PGD(epsilon=0.03, step_size=0.01, steps=3))

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


@pytest.mark.parametrize(
    "against", [PGD(epsilon=8 / 255, steps=2), Mixture(sample_wise_share=1.0, patch_share=0.0)], ids=["pgd", "mixture"]
)
def test_adversarial_images_raise_the_loss_within_the_budget(against: Against, tiny_encoder: nn.Module) -> None:
    model = tiny_model(tiny_encoder).eval()
    pixels, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 3

    adversarial = adversary_of(against).perturb(model, Batch.whole(pixels, labels))

    assert float((adversarial - pixels).abs().max()) <= 8 / 255 + 1e-6
    assert float(adversarial.min()) >= 0
    assert float(adversarial.max()) <= 1
    with torch.no_grad():
        assert F.cross_entropy(model(adversarial), labels) > F.cross_entropy(model(pixels), labels)


def mixed_step(adversary: Adversary, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    adversarial = adversary.perturb(model, Batch.whole(pixels, labels))
    F.cross_entropy(model(adversarial), labels).backward()
    adversary.update()
    return adversarial.detach()


def test_the_mixture_deals_out_its_three_shares(tiny_encoder: nn.Module) -> None:
    model = tiny_model(tiny_encoder).eval()
    mixture = Mixture(sample_wise_share=0.5, patch_share=0.25, bank_size=2, patch_area=0.06)
    pixels, labels = torch.full((16, 3, 16, 16), 0.5), torch.arange(16) % 3

    changes = (mixed_step(adversary_of(mixture), model, pixels, labels) - pixels).abs()

    assert float(changes[:8].amax()) <= 8 / 255 + 1e-6
    side = 4  # 6 % of 256 pixels
    assert [int((change.sum(0) > 0).sum()) for change in changes[8:12]] == [side * side] * 4
    assert float(changes[12:].amax()) <= mixture.universal_epsilon + 1e-6
    assert len({tuple(change.flatten().tolist()) for change in changes[12:]}) == 2  # two perturbations are shared


@pytest.mark.parametrize("aim", [0.0, 0.5, 1.0])
def test_aimed_patches_lie_where_the_gradient_is(aim: float) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)).eval()
    weights = 0.001 * torch.ones(2, 3, 16, 16)
    weights[1, :, 7:11, 2:6] = 1.0
    model[1].weight.data[:] = weights.flatten(1)
    mixture = Mixture(sample_wise_share=0.0, patch_share=1.0, patch_area=0.07, patch_aim=aim)
    pixels, labels = torch.full((64, 3, 16, 16), 0.5), torch.zeros(64).long()
    changed = (adversary_of(mixture).perturb(model, Batch.whole(pixels, labels)) - pixels).abs().sum(dim=1) > 0
    there = sum(bool(one[7:11, 2:6].all()) for one in changed)
    assert [int(one.sum()) for one in changed] == [16] * 64
    assert there == 64 if aim == 1 else abs(there - 64 * aim) <= (16 if aim else 3)


def test_patches_begin_in_one_color_each() -> None:
    adversary = adversary_of(Mixture(patch_share=1.0, sample_wise_share=0.0, bank_size=10, patch_area=0.07))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)).eval()
    adversary.perturb(model, Batch.whole(torch.rand(10, 3, 16, 16), torch.zeros(10).long()))
    patches = adversary.state()["patches"]
    plain = [tuple(one.flatten(1)[:, 0].tolist()) for one in patches if one.flatten(1).std(dim=1).max() == 0]
    assert plain[:2] == [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)]
    assert len(set(plain)) == len(plain) == 8
    assert plain_patches(8, 1, 4).shape == (2, 1, 4, 4)
    assert plain_patches(8, 200, 4).shape == (8, 200, 4, 4), "of 2^200 colors, as many as are wanted"


def test_the_bank_learns_to_raise_the_loss(tiny_encoder: nn.Module) -> None:
    model = tiny_model(tiny_encoder).eval().requires_grad_(False)
    mixture = Mixture(sample_wise_share=0.0, patch_share=0.0, bank_size=1, redraw_every=1000)
    adversary: MixtureAdversary = adversary_of(mixture)
    pixels, labels = torch.rand(32, 3, 16, 16), torch.arange(32) % 3
    losses = []
    for _ in range(12):
        perturbed = mixed_step(adversary, model, pixels, labels)
        losses.append(float(F.cross_entropy(model(perturbed), labels)))
    assert losses[-1] > losses[0]
    assert float(adversary.state()["perturbations"].abs().max()) <= mixture.universal_epsilon + 1e-6


@pytest.mark.parametrize(
    ("ramp", "done", "share"), [(0.8, 0.0, 0.0125), (0.8, 0.4, 0.5), (0.8, 0.9, 1.0), (0.0, 0.0, 1.0)]
)
def test_budgets_rise_over_a_share_of_the_training(
    ramp: float, done: float, share: float, tiny_encoder: nn.Module
) -> None:
    model = tiny_model(tiny_encoder).eval()
    mixture = Mixture(sample_wise_share=0.5, patch_share=0.25, bank_size=2, patch_area=0.06, ramp=ramp)
    adversary = adversary_of(mixture)
    pixels, labels = torch.full((16, 3, 16, 16), 0.5), torch.arange(16) % 3
    adversary.begin(done)

    changes = (mixed_step(adversary, model, pixels, labels) - pixels).abs().flatten(1).amax(dim=1)

    torch.testing.assert_close(float(changes[:8].max()), share * 8 / 255, rtol=0, atol=1e-6)
    assert float(changes[8:12].min()) > 0.2  # patches are as they are
    assert 0.9 * share * 12 / 255 < float(changes[12:].max()) <= share * 12 / 255 + 1e-6


def test_the_budget_of_sample_wise_steps_rises_too(tiny_encoder: nn.Module) -> None:
    adversary = adversary_of(PGD(epsilon=8 / 255, ramp=0.5))
    pixels, labels = torch.full((4, 3, 16, 16), 0.5), torch.arange(4) % 3
    largest = []
    for done in (0.0, 0.25, 0.6):
        adversary.begin(done)
        images = adversary.perturb(tiny_model(tiny_encoder).eval(), Batch.whole(pixels, labels))
        largest.append(float((images - pixels).abs().max()))
    assert largest == pytest.approx([0.02 * 8 / 255, 0.5 * 8 / 255, 8 / 255], abs=1e-6)


def test_an_image_counts_alike_with_a_step_of_its_own_and_without(tiny_encoder: nn.Module) -> None:
    """Gradients of the training step are of a mean, those of sample-wise steps of a sum."""
    model = tiny_model(tiny_encoder).eval()
    pixels, labels = torch.full((8, 3, 16, 16), 0.5), torch.arange(8) % 3
    directions = []
    for share in (0.0, 1.0):
        adversary = adversary_of(Mixture(sample_wise_share=share, patch_share=0.0, bank_size=1))
        mixed_step(adversary, model, pixels, labels)
        directions.append(adversary.state()["perturbation_directions"])
    torch.testing.assert_close(directions[0], directions[1], rtol=1e-3, atol=1e-5)


def test_the_scale_of_an_fp16_loss_plays_no_part(tiny_encoder: nn.Module) -> None:
    """Gradients of sample-wise steps, to which those of the training step are added, have no scale."""
    model = tiny_model(tiny_encoder).eval()
    pixels, labels = torch.full((8, 3, 16, 16), 0.5), torch.arange(8) % 3
    directions = []
    for scale in (1.0, 1024.0):
        adversary = adversary_of(Mixture(sample_wise_share=0.5, patch_share=0.0, bank_size=1))
        adversarial = adversary.perturb(model, Batch.whole(pixels, labels))
        (scale * F.cross_entropy(model(adversarial), labels)).backward()
        adversary.update(scale)
        directions.append(adversary.state()["perturbation_directions"])
    torch.testing.assert_close(directions[1], directions[0])


def test_away_from_the_prediction_labels_play_no_part(tiny_encoder: nn.Module) -> None:
    model = tiny_model(tiny_encoder).eval().requires_grad_(False)
    against = PGD(epsilon=16 / 255, step_size=8 / 255, steps=4, away_from="prediction")
    pixels = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(1))

    def perturbed(labels: Tensor) -> Tensor:
        images: Tensor = adversary_of(against).perturb(model, Batch.whole(pixels, labels))
        return images

    adversarial = perturbed(torch.zeros(16, dtype=torch.long))
    assert torch.equal(adversarial, perturbed(torch.ones(16, dtype=torch.long)))
    noise = (pixels + torch.empty_like(pixels).uniform_(-16 / 255, 16 / 255)).clamp(0, 1)
    clean = model(pixels).log_softmax(1)

    def divergence(images: Tensor) -> float:
        return float(F.kl_div(model(images).log_softmax(1), clean, log_target=True, reduction="batchmean"))

    assert divergence(adversarial) > 2 * divergence(noise)
    assert float((adversarial - pixels).abs().max()) <= 16 / 255 + 1e-6


@pytest.mark.parametrize(
    ("batch", "redraw_every", "redrawn"), [(32, None, [4, 6]), (16, None, []), (16, 3, [3, 6])], ids=str
)
def test_a_member_starts_anew_after_a_life_of_images_or_so_many_steps(
    batch: int, redraw_every: int | None, redrawn: list[int], tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "LIFE", 128)
    adversary: MixtureAdversary = adversary_of(Mixture(bank_size=2, redraw_every=redraw_every))
    model = tiny_model(tiny_encoder).eval().requires_grad_(False)
    pixels, labels = torch.rand(batch, 3, 16, 16), torch.arange(batch) % 3
    found = []
    for step in range(1, 7):
        before = adversary.state()["perturbations"].clone()
        mixed_step(adversary, model, pixels, labels)
        if len(before):
            moved = (adversary.state()["perturbations"] - before).abs().amax(dim=(1, 2, 3))
            longest = bank.LONGEST_STEP * 12 / 255 + 1e-6
            found += [step] if float(moved.max()) > longest else []
    assert found == redrawn
    again: MixtureAdversary = adversary_of(Mixture(bank_size=2, redraw_every=redraw_every))
    again.load(adversary.state(), torch.device("cpu"))
    assert (again.steps, again.images) == (6, 6 * batch)
