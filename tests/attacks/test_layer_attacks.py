"""Attacks on activations, on layers simple enough for the best perturbation to be known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.attacks import FFF, GDUAP, SSP, Dispersion, PapBase, PapFuse, PapUgs
from genaf_sdk.attacks.activation_maximization import adam_ascent, mid_gray
from genaf_sdk.attacks.fff import product_of_means
from genaf_sdk.attacks.gd_uap import product_of_norms
from genaf_sdk.attacks.layers import activations, layers_of
from genaf_sdk.attacks.pap_ugs import gaussian_images
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.encoder import PixelEncoder

BUDGET = 10 / 255


def pointwise(*weights: float) -> nn.Module:
    """An encoder of one 1 x 1 convolution: every pixel by itself, so that every optimum is known."""
    conv = nn.Conv2d(1, len(weights), 1, bias=False)
    conv.weight.data = torch.tensor(weights).view(-1, 1, 1, 1)
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def gray(count: int = 8, low: float = 0.3, high: float = 0.6) -> Tensor:
    return torch.empty(count, 1, 6, 5).uniform_(low, high, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attack", [PapBase(), PapFuse(), PapUgs()])
def test_pap_lifts_every_pixel_by_the_whole_budget(attack: PapBase | PapFuse | PapUgs) -> None:
    # mean((w (x + d))^2) with x > 0 grows with every d.
    delta = attack(pointwise(0.5, -2.0), gray()).values
    torch.testing.assert_close(delta, torch.full_like(delta, BUDGET))


def test_ssp_moves_every_pixel_to_the_edge_of_the_budget() -> None:
    # MSE(w (x + d), w x) = w^2 d^2, whatever x.
    delta = SSP()(pointwise(1.0), gray()).values
    torch.testing.assert_close(delta.abs(), torch.full_like(delta, BUDGET))


def test_dispersion_brings_bright_and_dark_pixels_together() -> None:
    images = gray()
    images[:, :, :3] += 0.3
    delta = Dispersion()(pointwise(1.0), images).values
    torch.testing.assert_close(delta[:, :3], torch.full_like(delta[:, :3], -BUDGET))
    torch.testing.assert_close(delta[:, 3:], torch.full_like(delta[:, 3:], BUDGET))


def two_layers() -> nn.Module:
    first, second = nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False)
    first.weight.data = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    second.weight.data = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    return nn.Sequential(first, nn.ReLU(), second, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_losses_of_the_data_free_attacks_on_a_network_made_by_hand() -> None:
    image = torch.tensor([0.5, -0.25]).view(1, 1, 1, 2)
    # first layer: 2x = 1, -0.5 and -x = -0.5, 0.25; after ReLU: 1, 0 and 0, 0.25
    # second layer: 1 x first + 3 x second = 1, 0.75
    outputs = activations(two_layers(), layers_of(two_layers(), image), image)
    means = math.log(1.25 / 4) + math.log(1.75 / 2)
    norms = math.log(math.hypot(1, 0.25)) + math.log(math.hypot(1, 0.75))
    assert product_of_means(outputs).item() == pytest.approx(means, abs=1e-6)
    assert product_of_norms(outputs).item() == pytest.approx(norms, abs=1e-6)


@pytest.mark.parametrize(
    "attack",
    [
        FFF(steps=200),
        GDUAP(data="none", steps=200),
        GDUAP(data="range", steps=200),
        GDUAP(data="images", steps=200, batch_size=4),
    ],
)
def test_maximization_raises_a_positive_layer_everywhere(attack: FFF | GDUAP) -> None:
    delta = attack(pointwise(1.0), gray()).values
    assert float((delta > 0.9 * BUDGET).float().mean()) > 0.95


def test_fff_needs_no_images() -> None:
    first, second = (FFF(steps=50)(two_layers(), gray(8, *span)).values for span in ((0.0, 0.1), (0.4, 1.0)))
    assert torch.equal(first, second)


def test_a_saturated_perturbation_is_halved_and_the_fittest_candidate_wins() -> None:
    candidates: list[Tensor] = []

    def fitness(delta: Tensor) -> float:
        candidates.append(delta)
        return -float(len(candidates))  # the first is the fittest

    generator = torch.Generator().manual_seed(0)
    delta = adam_ascent(lambda d: d.sum(), fitness, gray(), Linf(BUDGET), steps=600, generator=generator)
    assert len(candidates) >= 3
    assert torch.equal(delta, candidates[0])
    torch.testing.assert_close(delta, torch.full_like(delta, BUDGET))


def test_mid_gray_is_what_the_normalisation_maps_to_zero() -> None:
    images = torch.rand(2, 3, 4, 4)
    encoder = PixelEncoder(nn.Identity(), mean=(0.1, 0.2, 0.3), std=(0.2, 0.2, 0.2))
    torch.testing.assert_close(mid_gray(encoder, images)[0, :, 0, 0], torch.tensor([0.1, 0.2, 0.3]))
    assert torch.equal(mid_gray(PixelEncoder(nn.Identity()), images), torch.full((1, 3, 4, 4), 0.5))
    assert torch.equal(mid_gray(nn.Identity(), images), torch.full((1, 3, 4, 4), 0.5))


def test_gaussian_images_have_the_published_statistics() -> None:
    noise = gaussian_images(torch.Size((200, 3, 32, 32)), torch.Generator().manual_seed(0))
    deviations, means = torch.std_mean(noise, dim=(2, 3))
    assert 0.38 < float(means.min()) < 0.41 < 0.59 < float(means.max()) < 0.62
    assert 0.045 < float(deviations.min()) < 0.055 < 0.095 < float(deviations.max()) < 0.105
