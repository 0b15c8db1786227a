"""Attacks on a baseline end once it is right no more often than by chance; all others go on."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from training import TinyEncoder, stripes, tiny_model

from genaf_sdk import HardenConfig, evaluate
from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.placed_patch import PlacedPatch
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.targets import FeatureTarget, LabelTarget, Success, Target, until_chance
from genaf_sdk.attacks.tried_uap import TriedUAP
from genaf_sdk.data import DataSplits


class Counting(nn.Module):
    """Counts the images that cross a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.images = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return self.inner(images)


def crossed(name: str, *, chance: bool, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many images an attack takes on a model that is wrong of all held-out ones from the first step on."""
    attack, model = load_attack(name), tiny_model(TinyEncoder()).eval()
    pixels, labels = stripes(48, 0)
    plain = Target.success

    def success(self: Target, put: object) -> Success:
        return plain(self, put)._replace(rate=1.0)  # type: ignore[arg-type]

    monkeypatch.setattr(Target, "success", success)
    target = Counting(model.encoder if isinstance(attack, EncoderAttack) else model)
    with until_chance() if chance else nullcontext():
        if isinstance(attack, EncoderAttack):
            made = attack(target, pixels)
        else:
            assert isinstance(attack, UniversalModelAttack)
            made = attack(target, pixels, labels)
    assert made.details.get("converged", True) or not chance
    return target.images


@pytest.mark.parametrize("name", [
    "uapgd:steps=60,batch_size=24", "label-uap:steps=60,batch_size=24", "encoder-patch:steps=30", "patch-uap:steps=30",
    "advencoder-per:steps=30,noise_maps=2,batch_size=24",
])  # fmt: skip
def test_an_attack_ends_at_chance_level_only_where_it_may(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = crossed(name, chance=False, monkeypatch=monkeypatch)
    assert crossed(name, chance=True, monkeypatch=monkeypatch) < whole / 2


def test_chance_is_one_of_the_held_out_images_or_one_of_the_classes(tiny_encoder: TinyEncoder) -> None:
    pixels, labels = stripes(60, 0)
    generator = torch.Generator().manual_seed(0)
    features = FeatureTarget(tiny_encoder.eval(), pixels, generator)
    classes = LabelTarget(tiny_model(tiny_encoder), pixels, labels, 9.0, generator)
    n = len(features.held_out)
    assert not features.is_at_chance(Success(1.0, 0.0, n))
    with until_chance():
        assert features.is_at_chance(Success(1 - 1 / n, 0.0, n))
        assert not features.is_at_chance(Success(1 - 2 / n, 0.0, n))
        assert classes.is_at_chance(Success(2 / 3, 0.0, n))
        assert not classes.is_at_chance(Success(0.6, 0.0, n))


def test_in_an_evaluation_it_is_attacks_on_the_baseline_alone(
    striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    may_end: dict[str, bool] = {}
    for kind in (TriedUAP, PlacedPatch):
        plain = kind.strongest

        def noted(self: object, model: nn.Module, target: Target, *rest: object, plain: object = plain) -> object:
            may_end[texts[-1]] = target.is_at_chance(Success(1.0, 0.0, 9))
            return plain(self, model, target, *rest)  # type: ignore[operator]

        monkeypatch.setattr(kind, "strongest", noted)
    attacks = ("uapgd:steps=2", "encoder-patch:steps=2", "label-uap:steps=2")
    config = quick_config.evaluation.with_(attacks=attacks, checks=False, curve=(4 / 255,))
    model, baseline = tiny_model(TinyEncoder()), tiny_model(TinyEncoder())
    evaluate(model, striped, encoder=model.encoder, baseline=baseline, config=config, on_attack=texts.append)
    assert len(may_end) == 10
    assert {text for text, may in may_end.items() if may} == {text for text in may_end if "(undefended)" in text}
