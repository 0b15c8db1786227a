"""What every registered attack must do, whatever its mathematics: one table, one set of tests."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.attacks import (
    Attack,
    EncoderAttack,
    FeatureAttack,
    Perturbation,
    SampleWiseAttack,
    UniversalModelAttack,
    known_attacks,
    load_attack,
)
from genaf_sdk.attacks.sample_wise import SampleWise
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.keys import PerturbationKey

QUICK = {
    "steps": 6,
    "epochs": 1,
    "batch_size": 4,
    "noise_maps": 2,
    "queries": 20,
    "candidates": 2,
    "restarts": 2,
    "goals": 2,
    "grid": 2,
    "scout_steps": 2,
    "finalists": 2,
    "windows": 2,
    "walk": 2,
}
needs_art = [
    pytest.mark.skipif(find_spec("art") is None, reason="needs adversarial-robustness-toolbox"),
    pytest.mark.slow,
]
NAMES = [pytest.param(name, marks=needs_art if name == "autoattack" else []) for name in known_attacks()]
UNIVERSAL_NAMES = [p for p in NAMES if not issubclass(known_attacks()[p.values[0]], SampleWise)]
GRADIENT_NAMES = [p for p in NAMES if known_attacks()[p.values[0]].needs_gradient]


class Net(nn.Module):
    """Convolutions with batch statistics and dropout, so that a wrong mode shows; any size, any channels."""

    def __init__(self, channels: int = 3, outputs: int = 5) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.dropout = nn.Conv2d(6, 8, 3, stride=2), nn.Dropout(0.5)
        self.last = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.conv2(torch.relu(self.norm(self.conv1(x)))))
        return self.last(self.dropout(hidden.mean((2, 3))))


def quick(name: str, **settings: Any) -> Attack:
    attack = known_attacks()[name]
    known = {field.name for field in dataclasses.fields(attack)}
    return attack(**({key: value for key, value in QUICK.items() if key in known} | settings))


def images(channels: int = 3, size: tuple[int, int] = (14, 10)) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    pixels = torch.rand(9, channels, *size)
    pixels[:, :, :4] = pixels[:, :, :4].round()  # saturated margins
    return pixels, torch.arange(9) % 5


def net(channels: int = 3) -> Net:
    torch.manual_seed(0)
    return Net(channels)


def attacked(
    attack: Attack, model: Any, pixels: Tensor, labels: Tensor, seed: int = 0
) -> tuple[Tensor, Perturbation | None]:
    if isinstance(attack, SampleWiseAttack):
        return attack(model, pixels, labels, seed=seed), None
    if isinstance(attack, FeatureAttack):
        return attack(model, pixels, seed=seed), None
    if isinstance(attack, UniversalModelAttack):
        perturbation = attack(model, pixels, labels, seed=seed)
    else:
        assert isinstance(attack, EncoderAttack)
        perturbation = attack(model, pixels, seed=seed)
    return perturbation.apply(pixels), perturbation


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size"), [(3, (14, 10)), (1, (9, 9)), (4, (12, 16))])
def test_stays_within_its_budget_for_any_image_shape(name: str, channels: int, size: tuple[int, int]) -> None:
    attack, (pixels, labels) = quick(name), images(channels, size)
    adversarial, perturbation = attacked(attack, net(channels), pixels, labels)
    assert adversarial.shape == pixels.shape
    assert 0 <= float(adversarial.min()) <= float(adversarial.max()) <= 1
    if attack.is_patch:
        changed = (adversarial != pixels).any(dim=1).float().mean(dim=(1, 2))
        assert 0 < float(changed.max()) <= attack.budget
    else:
        assert float((adversarial - pixels).abs().max()) <= attack.budget + 1e-6
    if perturbation is not None:
        assert perturbation.key == PerturbationKey(attack.knowledge, name)
        assert perturbation.threat == attack.threat
        assert {"seed", "seconds", "budget"} <= set(perturbation.details)
        assert not perturbation.values.requires_grad


@pytest.mark.parametrize(
    ("text", "classes", "message"),
    [
        ("fff:layer=nowhere", 5, "no layer 'nowhere'"),
        ("gd-uap:layer=nowhere", 5, "no layer 'nowhere'"),
        ("pap-base:layer=nowhere", 5, "no layer 'nowhere'"),
        ("targeted-uap:target=5", 5, "target is 5"),
        ("apgd-t", 3, "a model of 3 classes"),
    ],
)
def test_what_could_not_run_is_refused_before_a_model_is_trained(text: str, classes: int, message: str) -> None:
    with pytest.raises(AttackError, match=message):
        load_attack(text).require(net().eval(), images()[0][:2], classes)


@pytest.mark.parametrize("name", known_attacks())
def test_it_says_what_it_costs_as_it_comes(name: str) -> None:
    assert (load_attack(name).passes(100) > 0) is (name != "noise")


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_result_and_no_trace_left(name: str) -> None:
    model, (pixels, labels) = net(), images()
    model.train()
    model.norm.eval()
    model.conv1.weight.requires_grad_(False)
    model.last.weight.grad = torch.ones_like(model.last.weight)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    before, generator_before = pixels.clone(), torch.get_rng_state()

    first, _ = attacked(quick(name), model, pixels, labels, seed=3)
    torch.rand(1)
    second, _ = attacked(quick(name), model, pixels, labels, seed=3)

    assert torch.equal(first, second)
    torch.set_rng_state(generator_before)
    attacked(quick(name), model, pixels, labels, seed=3)
    assert torch.equal(torch.get_rng_state(), generator_before)
    assert torch.equal(pixels, before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert needed == [parameter.requires_grad for parameter in model.parameters()]
    assert torch.equal(model.last.weight.grad, torch.ones_like(model.last.weight))
    assert all(p.grad is None for key, p in model.named_parameters() if key != "last.weight")
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", [p for p in UNIVERSAL_NAMES if p.values[0] != "plain-patch"])  # looks everywhere
def test_another_seed_is_another_result(name: str) -> None:
    model, (pixels, labels) = net(), images()
    first, second = (attacked(quick(name), model, pixels, labels, seed=seed)[1] for seed in (0, 1))
    assert first is not None
    assert second is not None
    assert not torch.equal(first.values, second.values)


@pytest.mark.parametrize("name", NAMES)
def test_bad_images_and_models_are_refused(name: str) -> None:
    attack, model, (pixels, labels) = quick(name), net(), images()
    for bad in (pixels * 255, pixels - 0.5, pixels[:0], pixels[0], (pixels * 255).byte()):
        with pytest.raises(AttackError, match=name):
            attacked(attack, model, bad, labels[: len(bad)])
    model.last.bias.data.fill_(torch.nan)
    with pytest.raises(AttackError, match="NaN"):
        attacked(attack, model, pixels, labels)


@pytest.mark.parametrize(
    "name", [p for p in NAMES if not issubclass(known_attacks()[p.values[0]], (EncoderAttack, FeatureAttack))]
)
def test_bad_labels_are_refused(name: str) -> None:
    model, (pixels, labels) = net(), images()
    for bad in (None, labels[:3], labels.float(), labels + 1, labels - 1):
        with pytest.raises(AttackError, match="label"):
            attacked(quick(name), model, pixels, bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [0.0, -0.1, 1.5, float("nan")])
def test_a_budget_outside_0_to_1_is_refused(name: str, budget: float) -> None:
    with pytest.raises(AttackError, match="budget"):
        quick(name, budget=budget)


@pytest.mark.parametrize("name", GRADIENT_NAMES)
def test_a_model_without_gradients_is_refused_with_a_way_out(name: str) -> None:
    class Silent(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(x)

    torch.manual_seed(0)
    pixels, _ = images()
    model = Silent()
    labels = model.eval()(pixels).argmax(1)
    with pytest.raises(AttackError, match="square"):
        attacked(quick(name), model, pixels, labels)


@pytest.mark.parametrize(
    "name", [p for p in NAMES if "layer" in {f.name for f in dataclasses.fields(known_attacks()[p.values[0]])}]
)
def test_the_layer_can_be_named_and_is_put_on_record(name: str) -> None:
    model, (pixels, labels) = net(), images()
    _, perturbation = attacked(quick(name, layer="conv2"), model, pixels, labels)
    assert perturbation is not None
    assert perturbation.details["layer"] == "conv2"
    with pytest.raises(AttackError, match=r"'conv3'.*conv"):
        attacked(quick(name, layer="conv3"), model, pixels, labels)


def test_settings_that_cannot_work_are_refused() -> None:
    for name, setting in (
        ("uapgd", "steps=0"),
        ("uapgd", "loss=square"),
        ("gd-uap", "data=labels"),
        ("pgd", "restarts=0"),
    ):
        with pytest.raises(AttackError, match=setting.split("=")[0]):
            load_attack(f"{name}:{setting}")
