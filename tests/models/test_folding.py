"""Batch norms folded into convolutions: the same outputs and gradients of the inputs, and only where that is so."""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.encoders.small_resnet import SmallResNet
from genaf_sdk.methods import steps as sign_steps
from genaf_sdk.models.folding import foldable, folded_batch_norms
from genaf_sdk.models.modes import inference_mode_of


def with_statistics(model: nn.Module) -> nn.Module:
    """The model with batch norms that do something, in eval mode."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


class Branching(nn.Module):
    """One convolution that is followed by its batch norm alone, and two that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.own_norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)
        self.split, self.split_norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.twice, self.twice_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.own_norm(self.own(x)))
        maps = self.split(x)
        x = F.relu(self.split_norm(maps)) + maps
        x = self.twice_norm(self.twice(self.twice(x)))
        return self.head(x.mean(dim=(2, 3)))


def pixels(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [SmallResNet, Branching])
def test_outputs_and_gradients_of_the_inputs_are_the_same(make: Any) -> None:
    torch.manual_seed(0)  # of some weights, an image lies on the kink of a ReLU, where rounding decides the gradient
    model, inputs = with_statistics(make()), pixels().requires_grad_()
    plain = model(inputs)
    (expected,) = torch.autograd.grad(plain.square().sum(), inputs)
    with folded_batch_norms(model, inputs):
        output = model(inputs)
        (found,) = torch.autograd.grad(output.square().sum(), inputs)
    torch.testing.assert_close(output, plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
    assert torch.equal(model(inputs), plain), "the model is what it was"
    assert not any("forward" in vars(module) for module in model.modules())


def test_only_a_convolution_whose_output_goes_nowhere_else_is_folded() -> None:
    model = with_statistics(Branching())
    assert isinstance(model, Branching)
    assert foldable(model, pixels(2)) == ((model.own, model.own_norm),)
    network = with_statistics(SmallResNet())
    assert (
        len(foldable(network, pixels(2))) == sum(isinstance(each, nn.BatchNorm2d) for each in network.modules()) == 10
    )
    assert foldable(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), pixels(2)) == ()
    assert foldable(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), pixels(2)) == ()


def test_a_model_that_would_answer_otherwise_is_left_alone() -> None:
    model = with_statistics(SmallResNet())
    norm = model.get_submodule("norm")
    forward = norm.forward
    norm.forward = lambda x: forward(x) + 1  # type: ignore[method-assign]
    expected = model(pixels())
    with folded_batch_norms(model, pixels()):
        assert torch.equal(model(pixels()), expected)


def test_the_model_is_put_back_where_the_attack_fails() -> None:
    model = with_statistics(SmallResNet())
    expected = model(pixels())
    with pytest.raises(ZeroDivisionError), folded_batch_norms(model, pixels()):
        raise ZeroDivisionError
    assert torch.equal(model(pixels()), expected)


def test_weights_that_changed_are_folded_anew() -> None:
    model = with_statistics(SmallResNet())
    with folded_batch_norms(model, pixels()):
        pass
    with torch.no_grad():
        model.get_parameter("stem.weight").mul_(2)
    expected = model(pixels())
    with folded_batch_norms(model, pixels()):
        torch.testing.assert_close(model(pixels()), expected, rtol=1e-4, atol=1e-5)


def test_an_attack_finds_the_same_images_with_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(with_statistics(SmallResNet()), nn.Linear(192, 5)).train()
    inputs, labels, settings = pixels(), torch.arange(6) % 5, sign_steps.SignSteps(step_size=2 / 255, steps=4)
    found, first = sign_steps.ascend(model, inputs, labels, torch.zeros_like(inputs), settings)
    assert model.training
    monkeypatch.setattr(sign_steps, "folded_batch_norms", lambda *_: nullcontext())
    expected, gradient = sign_steps.ascend(model, inputs, labels, torch.zeros_like(inputs), settings)
    torch.testing.assert_close(first, gradient, rtol=1e-3, atol=float(1e-4 * gradient.abs().max()))
    assert ((found - expected).abs() > 1e-6).float().mean() < 0.01, "signs of gradients near zero may turn"
    with inference_mode_of(model), torch.no_grad():
        torch.testing.assert_close(model(found), model(expected), rtol=1e-2, atol=1e-2)


def test_another_thread_may_be_loading_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it does, the package has a name and nothing else."""
    monkeypatch.setitem(sys.modules, "torch._dynamo", types.ModuleType("torch._dynamo"))
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)))
    images = torch.rand(2, 3, 8, 8)
    expected = model(images)
    with folded_batch_norms(model, images):
        torch.testing.assert_close(model(images), expected)


def test_a_module_that_is_exchanged_is_not_folded_away() -> None:
    torch.manual_seed(0)
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)))
    inputs = torch.rand(3, 3, 8, 8)
    for norm in (model[1], nn.GroupNorm(2, 4), with_statistics(nn.BatchNorm2d(4))):
        model[1] = norm
        with folded_batch_norms(model, inputs):
            folded = "forward" in vars(norm)
            found = model(inputs)
        assert folded is isinstance(norm, nn.BatchNorm2d)
        torch.testing.assert_close(found, model(inputs))
