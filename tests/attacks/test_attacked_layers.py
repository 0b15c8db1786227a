from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from genaf_sdk.attacks.layers import activations, layer_at, layers_of
from genaf_sdk.encoders.small_resnet import SmallResNet
from genaf_sdk.errors import AttackError


class Backwards(nn.Module):
    """Registers its layers in another order than it runs them, and one that it never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 2)
        self.unused = nn.Linear(4, 2)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.calls: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.relu(self.first(x))
        self.calls.append("half way")
        features = self.last(hidden.mean((2, 3)))
        self.calls.append("end")
        return features


def test_layers_come_in_the_order_of_execution() -> None:
    assert layers_of(Backwards(), torch.rand(2, 3, 8, 8)) == ["first", "last"]


def test_a_layer_that_is_called_by_keyword_is_found_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shortcut, self.last = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(input=self.first(input=x) + self.shortcut(x))

    assert layers_of(Named(), torch.rand(2, 4)) == ["first", "last"]


def test_a_normalisation_is_counted_to_the_convolution_before_it() -> None:
    layers = layers_of(SmallResNet().eval(), torch.rand(2, 3, 32, 32))
    assert layers[:4] == ["norm", "blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1"]
    assert len(layers) == 7  # without the three shortcuts


def test_a_transformer_has_layers_too() -> None:
    torch.manual_seed(0)
    transformer = VisionTransformer(img_size=16, patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=0).eval()
    layers = layers_of(transformer, torch.rand(2, 3, 16, 16))
    assert layers == ["patch_embed.proj"] + [
        f"blocks.{block}.{part}" for block in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    assert layers_of(attention, torch.rand(2, 3, 8)) == ["self_attn", "linear1", "linear2"]


@pytest.mark.parametrize(("depth", "expected"), [(0.0, "first"), (1.0, "last"), (0.6, "last")])
def test_depth_is_a_share_of_the_layers(depth: float, expected: str) -> None:
    assert layer_at(Backwards(), torch.rand(2, 3, 8, 8), depth) == expected


def test_an_unknown_name_is_answered_with_the_nearest_ones() -> None:
    with pytest.raises(AttackError, match=r"'frist'.*first"):
        layer_at(Backwards(), torch.rand(2, 3, 8, 8), 0.0, "frist")


def test_a_module_that_never_runs_is_named() -> None:
    with pytest.raises(AttackError, match="never runs its module 'unused'"):
        activations(Backwards(), ["first", "unused"], torch.rand(2, 3, 8, 8))


def test_an_encoder_without_layers_is_refused() -> None:
    with pytest.raises(AttackError, match="no convolution"):
        layers_of(nn.Flatten(), torch.rand(2, 3, 8, 8))


def test_activations_are_those_of_the_layer_and_the_pass_ends_there() -> None:
    torch.manual_seed(0)
    encoder, images = Backwards(), torch.rand(2, 3, 8, 8)
    (activation,) = activations(encoder, ["first"], images)
    torch.testing.assert_close(activation, encoder.first(images))
    assert encoder.calls == []
    assert not encoder.first._forward_hooks


def test_an_activation_survives_what_comes_after_it_in_place() -> None:
    torch.manual_seed(0)
    encoder, images = Backwards(), torch.rand(2, 3, 8, 8)
    first, last = activations(encoder, ["first", "last"], images)
    assert float(first.detach().min()) < 0  # before the ReLU
    torch.testing.assert_close(last, encoder(images))
