from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import PixelEncoder, as_feature_vectors
from genaf_sdk.models.tuning import TuningConfig
from genaf_sdk.preparation import load_published


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


def test_what_encoders_return_becomes_feature_vectors() -> None:
    maps, vectors = torch.rand(2, 5, 3, 4), torch.rand(2, 7)
    torch.testing.assert_close(as_feature_vectors(maps), maps.flatten(2).mean(dim=2))
    pooled, embedded = SimpleNamespace(pooler_output=vectors), SimpleNamespace(image_embeds=vectors, pooler_output=maps)
    for given in (vectors, (vectors,), [vectors], {"features": vectors}, pooled, embedded):
        assert as_feature_vectors(given) is vectors
    for refused, words in (((vectors, maps), "a tuple"), (maps[0], r"shape \(5, 3, 4\)"), ("text", "a str")):
        with pytest.raises(EncoderError, match=words):
            as_feature_vectors(refused)


def test_an_encoder_that_is_on_a_gpu_is_normalized_there() -> None:
    """Tensors without memory know devices that this machine has not, and refuse to mix them."""
    with FakeTensorMode():
        encoder = PixelEncoder(nn.Conv2d(3, 4, 3, device="cuda"), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
        features = encoder(torch.rand(2, 3, 8, 8, device="cuda"))
    assert (features.shape, features.device.type) == ((2, 4), "cuda")


def test_what_a_run_begins_with_is_on_the_processor() -> None:
    """Where the head is made, and the run is tried."""
    moves: list[Callable[[Tensor], Tensor]] = []

    class Watched(nn.Conv2d):
        def _apply(self, fn: Any, recurse: bool = True) -> Any:  # as in torch
            moves.append(fn)
            return super()._apply(fn, recurse)

    load_published(Watched(3, 4, 3), TuningConfig())
    with FakeTensorMode():
        found = torch.ones(1, device="cuda")
        for move in moves:
            found = move(found)
    assert found.device.type == "cpu"
