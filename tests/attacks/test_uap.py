from __future__ import annotations

import pytest
import torch
from torch import nn

from genaf_sdk.attacks import UAP
from genaf_sdk.attacks.pseudo_classes import feature_classes, probe_classes
from genaf_sdk.attacks.uap import deepfool
from genaf_sdk.errors import AttackError


def linear(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, classes)).eval().requires_grad_(False)


def test_deepfool_takes_the_closed_form_step_on_a_linear_classifier() -> None:
    model, images = linear(), torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    steps = deepfool(model, images, classes=4, steps=10, overshoot=0.02)
    scores, weight = model(images), model[1].weight
    for step, score in zip(steps, scores, strict=True):
        own = int(score.argmax())
        distances = [float((score[own] - score[k]) / (weight[k] - weight[own]).norm()) for k in range(4) if k != own]
        assert step.norm().item() == pytest.approx(1.02 * (min(distances) + 1e-4), rel=1e-3)
    assert bool((model(images + steps).argmax(1) != scores.argmax(1)).all())


def test_deepfool_stops_early_and_takes_no_images_too() -> None:
    model = linear()
    assert deepfool(model, torch.rand(0, 3, 4, 4), classes=4, steps=3, overshoot=0.02).shape == (0, 3, 4, 4)
    assert bool((deepfool(model, torch.rand(2, 3, 4, 4), classes=4, steps=0, overshoot=0.02) == 0).all())


@pytest.mark.parametrize("pseudo_classes", ["feature", "probe"])
def test_uap_changes_most_pseudo_classes(tiny_encoder: nn.Module, pseudo_classes: str) -> None:
    encoder = tiny_encoder.eval()
    images = torch.rand(30, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    perturbation = UAP(pseudo_classes=pseudo_classes, budget=0.1, batch_size=10, deepfool_classes=4, epochs=5)(
        encoder, images
    )  # type: ignore[arg-type]
    classify = feature_classes(encoder, images, torch.Generator())
    changed = classify(perturbation.apply(images)).argmax(1) != classify(images).argmax(1)
    assert float(changed.float().mean()) > 0.5
    assert float(str(perturbation.details["reached_fooling_rate"])) > 0.5


def test_the_probe_finds_groups_that_are_there() -> None:
    torch.manual_seed(0)
    colors = torch.eye(3)[torch.arange(60) % 3][:, :, None, None]
    images = (0.2 * torch.rand(60, 3, 4, 4) + 0.7 * colors).clamp(0, 1)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classes = probe_classes(encoder, images, torch.Generator().manual_seed(0))(images).argmax(1)
    groups = [set(classes[color::3].tolist()) for color in range(3)]
    assert sum(len(group) for group in groups) == len(groups[0] | groups[1] | groups[2])


def test_one_image_has_no_second_class(tiny_encoder: nn.Module) -> None:
    with pytest.raises(AttackError, match="no classes to tell apart"):
        UAP()(tiny_encoder.eval(), torch.rand(1, 3, 12, 12))
