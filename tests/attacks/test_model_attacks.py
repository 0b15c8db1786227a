"""Attacks on whole classifiers: PGD, Square, label and targeted UAP, AutoAttack's package."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.attacks import PGD, AutoAttack, LabelUAP, Square, TargetedUAP
from genaf_sdk.attacks.losses import margin_loss
from genaf_sdk.attacks.square import square_side
from genaf_sdk.errors import AttackError


def linear(classes: int = 4, size: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes)).eval()


def pixels_and_predictions(model: nn.Module, count: int = 40, size: int = 6) -> tuple[Tensor, Tensor]:
    pixels = 0.3 + 0.4 * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return pixels, model(pixels).argmax(1)


def test_targeted_uap_is_the_sign_of_the_weights_where_there_are_two_classes() -> None:
    model = linear(2)
    pixels, labels = pixels_and_predictions(model)
    delta = TargetedUAP(target=1)(model, pixels, labels).values
    difference = (model[1].weight[1] - model[1].weight[0]).detach().view(3, 6, 6)
    torch.testing.assert_close(delta, 10 / 255 * difference.sign())


def test_targeted_uap_chooses_a_target_and_refuses_one_that_is_not_there() -> None:
    model = linear()
    pixels, labels = pixels_and_predictions(model)
    found = TargetedUAP(steps=30)(model, pixels, labels)
    hits = [
        int((model(TargetedUAP(steps=30, target=t)(model, pixels, labels).apply(pixels)).argmax(1) == t).sum())
        for t in range(4)
    ]
    assert hits[int(found.details["target"] or 0)] >= sorted(hits)[-2]
    for target in (-1, 4):
        with pytest.raises(AttackError, match="0 to 3"):
            TargetedUAP(target=target)(model, pixels, labels)


def test_label_uap_leaves_the_class_that_all_images_have() -> None:
    model = linear(2)
    pixels, _ = pixels_and_predictions(model)
    delta = LabelUAP()(model, pixels, torch.zeros(len(pixels)).long()).values
    difference = (model[1].weight[1] - model[1].weight[0]).detach().view(3, 6, 6)
    torch.testing.assert_close(delta, 10 / 255 * difference.sign())


def test_pgd_reaches_the_corner_of_the_ball_on_a_linear_model() -> None:
    model = linear(2)
    pixels, labels = pixels_and_predictions(model)
    adversarial = PGD(budget=0.01)(model, pixels, labels)
    withstood = model(adversarial).argmax(1) == labels
    difference = (model[1].weight[1] - model[1].weight[0]).detach().view(1, 3, 6, 6)
    expected = pixels + 0.01 * difference.sign() * (1 - 2 * labels.view(-1, 1, 1, 1))
    assert 5 < int(withstood.sum()) < 40
    torch.testing.assert_close(adversarial[withstood], expected[withstood])


@pytest.mark.parametrize("seed", range(3))
def test_pgd_leaves_out_fooled_images_and_treats_the_others_like_the_plain_loop(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)).double().eval()
    pixels = torch.rand(60, 3, 6, 6, dtype=torch.float64)
    labels = model(pixels).argmax(1)
    asked: list[int] = []
    budget, steps = 0.02, 6
    generator = torch.Generator().manual_seed(seed)
    plain = (pixels + torch.empty(pixels.shape).uniform_(-budget, budget, generator=generator)).clamp(0, 1)
    fooled = torch.zeros(60, dtype=torch.bool)
    for _ in range(steps):
        plain.requires_grad_()
        logits = model(plain)
        fooled |= margin_loss(logits, labels) > 1e-3
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels, reduction="sum"), plain)
        plain = (plain.detach() + budget / 4 * gradient.sign()).clamp(pixels - budget, pixels + budget).clamp(0, 1)
    model.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))

    found = PGD(budget=budget, steps=steps)(model, pixels, labels, seed=seed)

    climbed = asked[2:-1]  # the first call tries the model, the second and the last one measure
    assert climbed == sorted(climbed, reverse=True)
    assert climbed[-1] < 60
    assert 3 < int(fooled.sum()) < 57
    torch.testing.assert_close(found[~fooled], plain[~fooled])
    assert bool((margin_loss(model(found), labels)[fooled] > 1e-3).all())


def test_restarts_of_pgd_never_lose_and_leave_out_what_is_fooled() -> None:
    model = nn.Sequential(linear(), nn.Tanh())
    pixels, labels = pixels_and_predictions(model)
    asked: list[int] = []
    model.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
    once = PGD(budget=0.1, steps=3)(model, pixels, labels)
    thrice = PGD(budget=0.1, steps=3, restarts=3)(model, pixels, labels)
    assert asked[-1] < len(pixels)  # where the last start ended, of those alone that withstood the others
    first, best = (margin_loss(model(images), labels) for images in (once, thrice))
    fooled = first > 0
    assert 0 < int(fooled.sum()) < len(pixels)
    assert bool((best[fooled] > 0).all())
    assert bool((best[~fooled] >= first[~fooled] - 1e-6).all())


def test_pgd_leaves_nothing_right_that_is_wrong_without_it() -> None:
    class Rounding(nn.Module):
        """No gradient leads anywhere, and the least noise changes the answer."""

        def forward(self, images: Tensor) -> Tensor:
            level = torch.round(3000 * images.mean((1, 2, 3)))
            return torch.stack([torch.sin(level), torch.cos(level)], dim=1) + 0 * images.sum((1, 2, 3))[:, None]

    pixels, labels = torch.rand(60, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 2
    wrong = Rounding()(pixels).argmax(1) != labels
    found = PGD(restarts=2, steps=2)(Rounding(), pixels, labels)
    assert 10 < int(wrong.sum()) < 50
    assert not bool((Rounding()(found).argmax(1) == labels)[wrong].any())


def test_square_shrinks_its_squares_by_the_papers_schedule() -> None:
    shares = [0.8 / 2**k for k in range(10)]
    used = [0.0005, 0.003, 0.01, 0.03, 0.07, 0.15, 0.3, 0.5, 0.7, 0.9]
    assert [square_side(0.8, u, 32, 32) for u in used] == [round((p * 1024) ** 0.5) for p in shares]
    assert square_side(1.0, 0.0, 10, 40) == 10
    assert square_side(1e-9, 0.0, 10, 40) == 1


def test_square_works_on_a_callable_without_gradients_and_beats_noise() -> None:
    model = linear()
    pixels, labels = pixels_and_predictions(model)
    asked: list[int] = []

    def answers(images: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        asked.append(len(images))
        weight, bias = (parameter.detach().numpy() for parameter in model.parameters())
        return torch.from_numpy(images.flatten(1).numpy() @ weight.T + bias)

    budget = 0.15
    adversarial = Square(budget=budget, queries=300)(answers, pixels, labels)
    noise = pixels + budget * (torch.randint(2, pixels.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    right = [int((model(images).argmax(1) == labels).sum()) for images in (noise, adversarial)]
    assert right[1] < right[0] - 5
    assert asked[-1] < len(pixels)  # fooled images are not asked about again


def test_a_gradient_attack_on_a_plain_callable_points_to_square() -> None:
    pixels, labels = torch.rand(2, 3, 6, 6), torch.zeros(2).long()
    with pytest.raises(AttackError, match="square"):
        PGD()(lambda images: torch.from_numpy(np.zeros((len(images), 3), np.float32)), pixels, labels)


def test_autoattack_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "art", None)
    monkeypatch.setitem(sys.modules, "art.attacks", None)
    monkeypatch.setitem(sys.modules, "art.attacks.evasion", None)
    model = linear()
    with pytest.raises(AttackError, match=r"pip install 'genaf-sdk\[autoattack\]'"):
        AutoAttack()(model, *pixels_and_predictions(model))
