"""Measuring the sensitivity leaves every weight as it was, whatever refers to it twice or computes it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.errors import TrainingError
from genaf_sdk.methods.sensitivity import Sensitivity, climbed_layers, layer_weights, robust_sensitivity


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.relu(self.first(torch.relu(self.conv(x)).mean((2, 3))))))


def tied() -> nn.Module:
    model = Two()
    model.second.weight = model.first.weight
    return model


def referred_to_twice() -> nn.Module:
    model = Two()
    model.target_layer, model.target_layers, model.again = model.conv, [model.conv], nn.Sequential(model.first)
    return model


def parametrized(how) -> nn.Module:
    model = Two()
    for name in ("conv", "first"):
        setattr(model, name, how(getattr(model, name)))
    return model


MODELS = {
    "plain": (Two, ["conv.weight", "first.weight", "second.weight", "head.weight"]),
    "tied": (tied, ["conv.weight", "first.weight", "head.weight"]),
    "referred to twice": (referred_to_twice, ["conv.weight", "first.weight", "second.weight", "head.weight"]),
    "weight norm": (
        lambda: parametrized(nn.utils.parametrizations.weight_norm),
        [f"{name}.parametrizations.weight.original1" for name in ("conv", "first")] + ["second.weight", "head.weight"],
    ),
    "spectral norm": (
        lambda: parametrized(nn.utils.parametrizations.spectral_norm),
        [f"{name}.parametrizations.weight.original" for name in ("conv", "first")] + ["second.weight", "head.weight"],
    ),
}


@pytest.mark.parametrize("method", ["fast", "exact"])
@pytest.mark.parametrize("kind", MODELS)
def test_every_layer_is_measured_and_none_is_changed(kind: str, method: str) -> None:
    torch.manual_seed(0)
    make, names = MODELS[kind]
    model = make().eval()
    before, own = copy.deepcopy(model.state_dict()), dict(model.named_parameters(remove_duplicate=False))
    pixels, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3

    rises = robust_sensitivity(model, pixels, labels, Sensitivity(method=method, steps=2))

    assert sorted(rises) == sorted(names) == sorted(layer_weights(model))
    assert all(rise > 0 for rise in rises.values())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert parameter is own[name], name
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_tied_weight_moves_in_all_its_places() -> None:
    torch.manual_seed(0)
    model, alone = tied().eval(), Two().eval()
    alone.load_state_dict(model.state_dict())
    pixels, labels = torch.rand(12, 3, 8, 8), torch.arange(12) % 3
    config = Sensitivity(method="exact", steps=1)
    together = robust_sensitivity(model, pixels, labels, config)["first.weight"]
    assert together > robust_sensitivity(alone, pixels, labels, config)["first.weight"]


def test_a_weight_that_changes_while_it_is_measured_is_named() -> None:
    class Drifts(Two):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.first.bias.add_(0.01)
            return super().forward(x)

    with pytest.raises(TrainingError, match=r"'first\.bias' was changed"):
        robust_sensitivity(Drifts(), torch.rand(12, 3, 8, 8), torch.arange(12) % 3, Sensitivity(steps=1))


def test_layers_that_are_frozen_are_neither_measured_nor_counted() -> None:
    """Of 20 layers 16 are frozen: the cut is among the other four, all of which are near it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), *(nn.Linear(8, 8) for _ in range(18)), nn.Linear(8, 3))
    model[:17].requires_grad_(False)
    climbed: list[str] = []
    found = robust_sensitivity(
        model.eval(), torch.rand(12, 3, 8, 8), torch.arange(12) % 3, Sensitivity(), on_layer=climbed.append
    )
    assert list(found) == [f"{index}.weight" for index in (17, 18, 19, 20)]
    assert set(climbed) <= set(found)
    assert len(climbed) == climbed_layers(model, Sensitivity(), 0.2) == 3
