from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from genaf_sdk.attacks import AdvEncoderPat, AdvEncoderPer
from genaf_sdk.attacks.advencoder import Generator, TransposedConv
from genaf_sdk.attacks.advencoder_pat import corner_mask
from genaf_sdk.errors import AttackError


def test_at_64_pixels_the_generator_and_the_patch_are_the_published_ones() -> None:
    network = Generator(3, (64, 64), 2, torch.Generator())
    widths = [layer.weight.shape[0] for layer in network.maps if isinstance(layer, TransposedConv)]
    assert widths == [100, 1024, 512, 256, 128]
    assert network().shape == (3, 64, 64)
    mask = corner_mask(64, 64, 0.03, 14 / 64)
    assert mask[0, 39:50, 39:50].sum() == mask.sum() == 121


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 1)])
def test_the_transposed_convolution_is_torch_s(stride: int, padding: int) -> None:
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64, requires_grad=True)
    layer = TransposedConv(5, 6, stride, padding, torch.Generator()).double()
    output = layer(maps)
    expected = F.conv_transpose2d(maps, layer.weight, stride=stride, padding=padding)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    slope = torch.randn_like(expected)
    gradients = torch.autograd.grad(output, (maps, layer.weight), slope)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (maps, layer.weight), slope))


@pytest.mark.parametrize("size", [(32, 32), (20, 14), (224, 224), (7, 90), (65, 33)])
def test_any_size_gets_a_map_and_a_patch_of_nearly_the_whole_area(size: tuple[int, int]) -> None:
    assert Generator(1, size, 2, torch.Generator())().shape == (1, *size)
    mask = corner_mask(*size, 0.03, 14 / 64)
    assert 0.02 <= float(mask.mean()) <= 0.03
    whole = corner_mask(*size, 1.0, 14 / 64)
    assert float(whole.mean()) > 0.95


def test_a_patch_of_less_than_a_pixel_is_refused() -> None:
    with pytest.raises(AttackError, match="smaller than a pixel"):
        corner_mask(5, 5, 0.03, 0.2)


def test_training_turns_features_away(tiny_encoder: nn.Module) -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 8, 8)
    encoder = tiny_encoder.eval()
    clean = encoder(images)

    def similarity(attack: AdvEncoderPer | AdvEncoderPat) -> float:
        features = encoder(attack(encoder, images).apply(images))
        return F.cosine_similarity(features, clean).mean().item()

    for kind, settings in ((AdvEncoderPer, {}), (AdvEncoderPat, {"budget": 0.1})):
        short, long = (
            similarity(kind(epochs=epochs, batch_size=8, noise_maps=2, learning_rate=2e-3, **settings))
            for epochs in (1, 10)
        )
        assert long < short
