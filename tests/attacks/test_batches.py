"""Outputs part by part, and with batch norms folded, are those of the plain network."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.attacks import PGD, SSP, UAPGD, FeatureAttack, FeaturePGD, LabelUAP, Noise
from genaf_sdk.attacks.batches import outputs_of
from genaf_sdk.attacks.targets import FeatureTarget
from genaf_sdk.models.parts import FEWEST_IN_PART, in_parts


def images(count: int, size: int = 96) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_parts_give_outputs_and_gradients_of_the_whole(tiny_encoder: nn.Module) -> None:
    encoder, asked = tiny_encoder.eval(), []
    encoder.register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    whole, parted = (images(40).requires_grad_() for _ in range(2))
    expected, found = encoder(whole), in_parts(encoder, parted)
    assert asked == [40, FEWEST_IN_PART, FEWEST_IN_PART, 8]
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(out.square().sum(), of)[0] for out, of in ((expected, whole), (found, parted))]
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(outputs_of(encoder, images(40)), expected.detach())


def test_a_batch_of_few_small_images_is_one_part(tiny_encoder: nn.Module) -> None:
    asked: list[int] = []
    tiny_encoder.eval().register_forward_hook(lambda _, inputs, __: asked.append(len(inputs[0])))
    in_parts(tiny_encoder, images(64, 32))
    assert asked == [64]


@pytest.mark.parametrize("attack", [UAPGD(steps=3), FeaturePGD(steps=3), LabelUAP(steps=3), PGD(steps=3), SSP(steps=3)])
def test_batch_norms_are_folded_for_attacks_that_look_at_outputs_alone(attack: object, tiny_encoder: nn.Module) -> None:
    folded: list[bool] = []
    norm = next(module for module in tiny_encoder.eval().modules() if isinstance(module, nn.BatchNorm2d))
    tiny_encoder.register_forward_hook(lambda *_: folded.append("forward" in vars(norm)))
    if isinstance(attack, (LabelUAP, PGD)):
        attack(tiny_encoder, images(8, 16), torch.zeros(8, dtype=torch.int64))
    elif isinstance(attack, (UAPGD, SSP, FeaturePGD)):
        attack(tiny_encoder, images(8, 16))
    assert any(folded) is not isinstance(attack, SSP)
    assert "forward" not in vars(norm)


def test_negatives_are_all_other_images(tiny_encoder: nn.Module) -> None:
    shown = images(12, 16)
    target = FeatureTarget(tiny_encoder.eval(), shown, torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 7])
    with torch.no_grad():
        found = target.objective("info-nce", shown[rows], rows)
        features = nn.functional.normalize(tiny_encoder(shown), dim=1)
        similar = features @ features.T / 0.1
        expected = sum(similar[row].logsumexp(0) - similar[row, row] for row in rows) / 2
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def turned(encoder: nn.Module, before: Tensor, after: Tensor) -> Tensor:
    with torch.no_grad():
        return 1 - nn.functional.cosine_similarity(encoder(before), encoder(after), dim=1)


@pytest.mark.parametrize("attack", [FeaturePGD(steps=10), UAPGD(steps=40, goals=0)])
def test_an_image_without_others_is_attacked_all_the_same(attack: FeaturePGD | UAPGD, tiny_encoder: nn.Module) -> None:
    encoder, shown = tiny_encoder.eval(), images(1, 16)
    made = attack(encoder, shown)
    noise = 10 * turned(encoder, shown, Noise(budget=attack.budget)(encoder, shown).apply(shown))
    assert float(turned(encoder, shown, made if isinstance(made, Tensor) else made.apply(shown))) > float(noise)


class Waving(nn.Module):
    """Features that come back while an image goes on."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(100 * self.encoder(x))


def test_feature_pgd_keeps_the_step_of_the_largest_loss(tiny_encoder: nn.Module) -> None:
    encoder, shown, steps = Waving(tiny_encoder).eval(), images(8, 16), 6
    seen: list[Tensor] = []
    hook = encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    found = FeaturePGD(budget=0.3, steps=steps, relative_step_size=1.0)(encoder, shown)
    hook.remove()
    visited = [each for each in seen if len(each) == 8][-(steps + 1) :]
    with torch.no_grad():
        clean, *moved = (nn.functional.normalize(encoder(each), dim=1) for each in (shown, *visited))
    own = torch.arange(8)
    losses = torch.stack([nn.functional.cross_entropy(each @ clean.T / 0.1, own, reduction="none") for each in moved])
    best = losses.argmax(dim=0)
    assert int((best < steps).sum()) > 0, "some image was farther away before the last step"
    torch.testing.assert_close(found, torch.stack(visited)[best, own], rtol=0, atol=1e-6)


def test_batches_of_images_are_of_one_size(tiny_encoder: nn.Module) -> None:
    asked: list[int] = []

    @dataclass(frozen=True)
    class Counting(FeatureAttack):
        name = "counting"

        def run(self, encoder: nn.Module, pixels: Tensor, generator: torch.Generator) -> Tensor:
            asked.append(len(pixels))
            return pixels + 0.01 * len(asked)

    shown = images(251, 8) / 2
    made = Counting()(tiny_encoder, shown)
    assert asked == [125, 126], "one of 250 would leave one image alone"
    torch.testing.assert_close(made[[0, 124, 125, 250]] - shown[[0, 124, 125, 250]], torch.tensor(
        [0.01, 0.01, 0.02, 0.02]).view(4, 1, 1, 1).expand(4, 3, 8, 8))  # fmt: skip
