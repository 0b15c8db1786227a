from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.errors import TrainingError
from genaf_sdk.methods.sensitivity import Sensitivity, layer_weights, redundant_layers, robust_sensitivity


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(40, 3, 8, 8, generator=generator), torch.randint(3, (40,), generator=generator)


def naive_sensitivity(model: nn.Module, name: str, pixels: Tensor, labels: Tensor, radius: float, steps: int) -> float:
    """Change a real copy of the model, step by step."""
    model = copy.deepcopy(model).eval()
    weight = model.get_parameter(name)
    start = weight.detach().clone()
    limit = radius * float(start.norm())
    losses = []
    for _ in range(steps):
        model.zero_grad()
        loss = F.cross_entropy(model(pixels), labels)
        loss.backward()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            assert weight.grad is not None
            change = weight - start + limit * weight.grad / weight.grad.norm()
            if change.norm() > limit:
                change = change * limit / change.norm()
            weight.copy_(start + change)
    losses.append(float(F.cross_entropy(model(pixels), labels).detach()))
    return max(losses) - losses[0]


def test_agrees_with_ascent_on_a_copy_of_the_model() -> None:
    model, (pixels, labels) = classifier(), images()
    config = Sensitivity(method="exact", radius=0.2, steps=4)

    rises = robust_sensitivity(model, pixels, labels, config)

    assert list(rises) == ["0.weight", "4.weight", "6.weight"]
    for name, rise in rises.items():
        assert rise == pytest.approx(naive_sensitivity(model, name, pixels, labels, 0.2, 4), rel=1e-3, abs=1e-5)
        assert rise > 0


def test_more_radius_never_lowers_the_rise() -> None:
    model, (pixels, labels) = classifier(), images()
    small = robust_sensitivity(model, pixels, labels, Sensitivity(method="exact", radius=0.05))
    large = robust_sensitivity(model, pixels, labels, Sensitivity(method="exact", radius=0.5))
    assert all(large[name] >= small[name] for name in small)


def test_leaves_the_model_as_it_was() -> None:
    model, (pixels, labels) = classifier().train(), images()
    before = copy.deepcopy(model.state_dict())

    robust_sensitivity(model, pixels, labels, Sensitivity(steps=1))

    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fraction", [0.1, 0.4, 0.9])
def test_fast_measures_the_layers_near_the_cut_exactly(seed: int, fraction: float) -> None:
    torch.manual_seed(seed)
    widths = (3, 5, 6, 5, 7, 6, 8, 5, 6, 7, 4)
    blocks = [block for a, b in pairwise(widths) for block in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU())]
    model = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(4 * 36, 4)).double()
    for weight in layer_weights(model).values():
        weight.data *= 2
    pixels, labels = torch.rand(30, 3, 6, 6, dtype=torch.float64), torch.randint(4, (30,))
    exact = robust_sensitivity(model, pixels, labels, Sensitivity(method="exact"))
    measured: list[str] = []

    fast = robust_sensitivity(
        model, pixels, labels, Sensitivity(), redundant_fraction=fraction, on_layer=measured.append
    )

    chosen = redundant_layers(fast, fraction)
    assert list(fast) == list(exact)
    assert 2 <= len(measured) <= 9
    near = sorted(measured, key=lambda name: exact[name])
    sure = [name for name in chosen if name not in measured]
    assert set(chosen) == {*sure, *near[: len(chosen) - len(sure)]}
    for name in measured:
        if name in chosen:
            assert fast[name] == pytest.approx(exact[name], rel=1e-9)
        else:
            assert fast[name] <= exact[name] * (1 + 1e-9)


def test_fast_is_exact_where_all_layers_are_near_the_cut() -> None:
    model, (pixels, labels) = classifier(), images()
    exact = robust_sensitivity(model, pixels, labels, Sensitivity(method="exact"))
    fast = robust_sensitivity(model, pixels, labels, Sensitivity(method="fast"))
    assert redundant_layers(fast, 0.2) == redundant_layers(exact, 0.2)
    assert min(fast.values()) == pytest.approx(min(exact.values()), rel=1e-6)


def test_a_layer_that_the_logits_do_not_depend_on_is_no_candidate() -> None:
    model, (pixels, labels) = classifier(), images()
    model.add_module("unused", nn.ModuleList([nn.Linear(8, 8)]))
    model.forward = lambda x: nn.Sequential(*list(model.children())[:-1])(x)  # type: ignore[method-assign]
    rises = robust_sensitivity(model, pixels, labels, Sensitivity())
    assert list(rises) == ["0.weight", "4.weight", "6.weight"]


def test_a_layer_that_diverges_is_named() -> None:
    model, (pixels, labels) = classifier(), images()
    with torch.no_grad():
        model.get_parameter("6.weight").fill_(1e38)
    with pytest.raises(TrainingError, match=r"\.weight"):
        robust_sensitivity(model, pixels, labels, Sensitivity())


def test_layers_are_named_exactly_and_attention_counts() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16)
    assert set(layer_weights(block)) == {
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }


def test_the_least_contributing_layers_are_redundant_and_at_least_one() -> None:
    contributions = {"a": 3.0, "b": 0.1, "c": 0.5, "d": 2.0, "e": 9.0}
    assert redundant_layers(contributions, 0.4) == ["b", "c"]
    assert redundant_layers(contributions, 0.01) == ["b"]
