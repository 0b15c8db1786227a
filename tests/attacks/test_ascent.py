from __future__ import annotations

import pytest
import torch

from genaf_sdk.attacks.ascent import linear_decay, sign_ascent
from genaf_sdk.attacks.batches import image_batches
from genaf_sdk.inputs.threat import Linf


def test_ascent_of_a_linear_objective_ends_in_its_corner() -> None:
    torch.manual_seed(0)
    weights = torch.randn(3, 4, 4)
    delta = sign_ascent(lambda d: (d * weights).sum(), torch.zeros(3, 4, 4), Linf(0.1), linear_decay(0.05, 8))
    torch.testing.assert_close(delta, 0.1 * weights.sign())


def test_steps_fall_to_a_tenth() -> None:
    lengths = linear_decay(1.0, 9)
    assert lengths[0] == 1.0
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == pytest.approx(0.2)


def test_an_epoch_shows_every_image_once() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1)
    batches = image_batches(images, 2, torch.Generator().manual_seed(0))
    for _ in range(2):
        seen = torch.cat([next(batches) for _ in range(3)]).flatten()
        assert seen.sort().values.tolist() == list(range(6))
