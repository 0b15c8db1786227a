"""Perturbations that learn while a model trains: what they climb, when they wait, where they go on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genaf_sdk.inputs.threat import Linf
from genaf_sdk.methods.bank import MEMORY, Bank

EPSILON = 0.1
THREAT = Linf(EPSILON)


def bank_of(count: int, side: int = 4) -> Bank:
    return Bank(torch.zeros(count, 3, side, side), THREAT, EPSILON)


def seen(*images: int) -> Tensor:
    return torch.tensor(images)


def climbed(values: Tensor, slope: Tensor) -> float:
    """Return how much of what a perturbation could gain along ``slope`` it has."""
    return float((values.detach() * slope).sum() / (EPSILON * slope.abs().sum()))


def test_signs_of_noisy_gradients_agree_in_the_running_mean() -> None:
    """Gradients of two images point up only in the mean: ten times as much noise as slope."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(1, 3, 16, 16, generator=generator)
    bank, alone = bank_of(1, 16), torch.zeros(1, 3, 16, 16)
    for _ in range(300):
        gradient = slope + 10 * torch.randn(slope.shape, generator=generator)
        bank.ascend(gradient, seen(2))
        alone = THREAT.ascend(alone, gradient, 0.02 * EPSILON)
    assert climbed(bank.values, slope) > climbed(alone, slope) + 0.2


def test_mean_and_step_are_counted_in_images() -> None:
    """Where 12 steps of two images went, one of 24 goes; but for what the mean forgets on the way."""
    slope = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    often, once = bank_of(1), bank_of(1)
    for _ in range(5):
        often.ascend(slope, seen(2))
    once.ascend(5 * slope, seen(10))
    torch.testing.assert_close(often.values, once.values)
    torch.testing.assert_close(often.directions, once.directions, rtol=0.05, atol=0)
    once.ascend(slope, seen(10_000))
    assert float((once.values - often.values).detach().abs().max()) <= 0.1 * EPSILON + 1e-6  # the longest step


def test_a_gradient_is_forgotten_by_the_images_that_follow() -> None:
    """Of one that lies ``MEMORY`` images back, 37 % are left."""
    bank = bank_of(1)
    bank.ascend(torch.ones(1, 3, 4, 4), seen(2))
    bank.ascend(torch.zeros(1, 3, 4, 4), seen(MEMORY))
    torch.testing.assert_close(bank.directions, torch.full((1, 3, 4, 4), math.exp(-1)))


def test_images_that_give_way_count_more_than_those_that_resist() -> None:
    bank = bank_of(1)
    bank.ascend(torch.ones(1, 3, 4, 4), seen(1))
    bank.ascend(-0.1 * torch.ones(1, 3, 4, 4), seen(1))
    assert float(bank.directions.min()) > 0


def test_a_member_that_nobody_saw_waits() -> None:
    bank = bank_of(3)
    bank.ascend(torch.ones(3, 3, 4, 4), seen(2, 2, 2))
    before, mean = bank.values.detach().clone(), bank.directions.clone()
    gradient = torch.ones(3, 3, 4, 4)
    gradient[1] = 0
    gradient[2, 0, 0, 0] = torch.inf  # of fp16, whose loss scale was too large
    bank.ascend(gradient, seen(2, 0, 2))
    assert torch.equal(bank.values[1:], before[1:])
    assert torch.equal(bank.directions[1:], mean[1:])
    assert float((bank.values[0] - before[0]).detach().min()) > 0


def test_one_that_starts_anew_forgets_where_it_went() -> None:
    bank = bank_of(2)
    for _ in range(5):
        bank.ascend(torch.ones(2, 3, 4, 4), seen(2, 2))
    bank.restart(0, torch.zeros(3, 4, 4))
    before = bank.values[1].detach().clone()
    bank.ascend(-0.5 * torch.ones(2, 3, 4, 4), seen(2, 2))
    assert float(bank.values[0].detach().max()) < 0  # follows its first gradient
    assert float((bank.values[1] - before).detach().min()) > 0  # its mean still points up


def test_members_stay_within_the_budget() -> None:
    bank = bank_of(1)
    for _ in range(20):
        bank.ascend(torch.ones(1, 3, 4, 4), seen(14))
    assert float(bank.values.detach().max()) == torch.tensor(EPSILON)
