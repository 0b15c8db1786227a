from __future__ import annotations

import pytest
import torch
from torch import nn

from genaf_sdk.models.encoder import PixelEncoder


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5,)])
def test_pixels_are_normalized_alike_to_the_bit_in_any_layout(
    mean: tuple[float, ...], layout: torch.memory_format
) -> None:
    std = (0.229, 0.224, 0.225)[: len(mean)]
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 7, 5).contiguous(memory_format=layout).requires_grad_()
    seen: list[torch.Tensor] = []

    class Seeing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.flatten(1)

    weights = torch.rand(2, 105)
    (PixelEncoder(Seeing(), mean=mean, std=std)(pixels) * weights).sum().backward()
    means, stds = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    plain = pixels.detach().clone().contiguous().requires_grad_()
    ((((plain - means) / stds).flatten(1)) * weights).sum().backward()
    assert torch.equal(seen[0], (plain - means) / stds)
    assert seen[0].is_contiguous(memory_format=layout)
    assert torch.equal(pixels.grad, plain.grad)
