"""Perturbations that learn while a model trains: what they climb, when they wait, where they go on."""

from __future__ import annotations

import torch
from torch import Tensor

from genaf_sdk.inputs.threat import Linf
from genaf_sdk.methods.bank import Bank

EPSILON, STEP = 0.1, 0.01
THREAT = Linf(EPSILON)


def test_signs_of_noisy_gradients_agree_in_the_running_mean() -> None:
    """Gradients of few images point up only in the mean: three times as much noise as slope."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(1, 3, 16, 16, generator=generator)
    bank, alone = Bank(torch.zeros(1, 3, 16, 16), THREAT, STEP), torch.zeros(1, 3, 16, 16)
    for _ in range(20):
        gradient = slope + 3 * torch.randn(slope.shape, generator=generator)
        bank.ascend(gradient)
        alone = THREAT.ascend(alone, gradient, STEP)

    def climbed(values: Tensor) -> float:
        return float((values.detach() * slope).sum() / (EPSILON * slope.abs().sum()))

    assert climbed(bank.values) > climbed(alone) + 0.1


def test_gradients_count_by_their_direction_alone() -> None:
    first, second = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    one, other = (Bank(torch.zeros(2, 3, 4, 4), THREAT, STEP) for _ in range(2))
    one.ascend(first)
    one.ascend(second)
    other.ascend(1e-4 * first)
    other.ascend(1e4 * second)
    torch.testing.assert_close(one.values, other.values, rtol=0, atol=0)


def test_a_member_that_nobody_saw_waits() -> None:
    bank = Bank(torch.zeros(2, 3, 4, 4), THREAT, STEP)
    bank.ascend(torch.ones(2, 3, 4, 4))
    before = bank.values.detach().clone()
    gradient = torch.ones(2, 3, 4, 4)
    gradient[1] = 0
    bank.ascend(gradient)
    assert torch.equal(bank.values[1], before[1])
    assert float((bank.values[0] - before[0]).detach().min()) > 0


def test_one_that_starts_anew_forgets_where_it_went() -> None:
    bank = Bank(torch.zeros(2, 3, 4, 4), THREAT, STEP)
    for _ in range(5):
        bank.ascend(torch.ones(2, 3, 4, 4))
    bank.restart(0, torch.zeros(3, 4, 4))
    bank.ascend(-0.5 * torch.ones(2, 3, 4, 4))
    assert float(bank.values[0].detach().max()) < 0  # follows its first gradient
    assert float(bank.values[1].detach().min()) > 5 * STEP - 1e-6  # its mean still points up


def test_members_stay_within_the_budget() -> None:
    bank = Bank(torch.zeros(1, 3, 4, 4), THREAT, STEP)
    for _ in range(20):
        bank.ascend(torch.ones(1, 3, 4, 4))
    assert float(bank.values.detach().max()) == torch.tensor(EPSILON)
