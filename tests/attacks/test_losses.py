"""Losses against the numbers of the authors' code (float64)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genaf_sdk.attacks.losses import high_frequencies, info_nce

CASES = np.load(Path(__file__).parent / "data" / "advencoder_cases.npz", allow_pickle=False)


def tensor(key: str) -> torch.Tensor:
    return torch.from_numpy(CASES[key])


@pytest.mark.parametrize(("size", "radius"), [(32, 4), (64, 8)])
def test_high_frequencies_match_the_release(size: int, radius: int) -> None:
    filtered = high_frequencies(tensor(f"hf_{size}_{radius}_input"), radius)
    torch.testing.assert_close(filtered, tensor(f"hf_{size}_{radius}_output"), atol=1e-9, rtol=1e-9)


def test_info_nce_and_its_gradients_match_the_release() -> None:
    query, positive = tensor("nce_16_query").requires_grad_(), tensor("nce_16_positive").requires_grad_()
    loss = info_nce(query, positive)
    torch.testing.assert_close(loss.detach(), tensor("nce_16_loss"), atol=1e-9, rtol=1e-9)
    gradients = torch.autograd.grad(loss, (query, positive))
    for gradient, name in zip(gradients, ("query", "positive"), strict=True):
        torch.testing.assert_close(gradient, tensor(f"nce_16_grad_{name}"), atol=1e-9, rtol=1e-9)
