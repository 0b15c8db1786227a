"""What is done to any module before training: unwrapping, copying, finding what cannot be copied."""

from __future__ import annotations

import copy
import functools
import threading
import types

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.modules import (
    copied,
    in_single_precision,
    require_own_forward,
    unregistered,
    unwrapped,
)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        compiled,
        lambda module: nn.DataParallel(compiled(module)),
        lambda module: compiled(nn.DataParallel(nn.DataParallel(module))),
    ],
)
def test_wrappers_are_taken_off_however_often(wrap, tiny_encoder: nn.Module) -> None:
    assert unwrapped(wrap(tiny_encoder)) is tiny_encoder


def test_a_module_with_a_part_called_module_is_no_wrapper() -> None:
    own = nn.Sequential()
    own.module = nn.Linear(2, 2)
    assert unwrapped(own) is own


@pytest.mark.parametrize("precision", [torch.half, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32_in_a_copy(precision: torch.dtype, tiny_encoder: nn.Module) -> None:
    assert in_single_precision(tiny_encoder) is tiny_encoder
    tiny_encoder.conv1.to(precision)
    single = in_single_precision(tiny_encoder)
    assert {value.dtype for value in single.parameters()} == {torch.float32}
    assert tiny_encoder.conv1.weight.dtype == precision, "the user's module is left as it was"
    torch.testing.assert_close(single.conv1.weight, tiny_encoder.conv1.weight.float())


def test_tensors_that_torch_does_not_know_of_are_named(tiny_encoder: nn.Module) -> None:
    assert list(unregistered(tiny_encoder)) == []
    tiny_encoder.taps = [tiny_encoder.conv1, tiny_encoder.conv1.weight]
    assert list(unregistered(tiny_encoder)) == [], "layers of its own"
    scale, layer = torch.ones(3), nn.Linear(2, 2)
    tiny_encoder.norm.scale = scale
    tiny_encoder.layers = {"deep": [(layer,)]}
    found = dict(unregistered(tiny_encoder))
    assert found["norm.scale"] == [scale]
    assert [id(tensor) for tensor in found["layers"]] == [id(layer.weight), id(layer.bias)]
    assert len(found) == 2


class Keeps(nn.Module):
    """Keeps what it computed, itself and in a list and a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.last = self.layer(images)
        self.all, self.named = [self.last, self.last * 2], {"last": self.last * 3}
        return self.last


def test_results_that_a_module_keeps_are_copied_without_history() -> None:
    module = Keeps()
    module(torch.rand(1, 3, 8, 8))
    for made in (copied(module), copy.deepcopy(PixelEncoder(module)).backbone):
        assert not made.last.requires_grad
        torch.testing.assert_close(made.all[1], module.all[1].detach())
        assert made.all[0] is made.last, "what was one tensor still is"
        assert made.layer.weight is not module.layer.weight
    assert module.last.requires_grad, "the module itself is left as it was"


def test_what_cannot_be_copied_is_named() -> None:
    module = nn.Linear(2, 2)
    module.lock = threading.Lock()
    with pytest.raises(EncoderError, match=r"Linear.*cannot be copied.*lock"):
        copied(module)
    with pytest.raises(EncoderError, match="cannot be copied"):
        copy.deepcopy(PixelEncoder(module))


def test_a_copied_encoder_is_one(tiny_encoder: nn.Module) -> None:
    encoder = PixelEncoder(tiny_encoder, source="ours", mean=(0.5,), std=(0.25,), image_size=(8, 8)).train()
    made = copy.deepcopy(encoder)
    pixels = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(made.eval()(pixels), encoder.eval()(pixels))
    assert (made.source, made.image_size, made.channels) == ("ours", (8, 8), 3)
    with torch.no_grad():
        made.backbone.conv1.weight.add_(1)
    assert not torch.equal(made.backbone.conv1.weight, encoder.backbone.conv1.weight)


def forwards(module: nn.Module) -> dict:
    original = type(module).forward
    return {
        "closure": lambda images: original(module, images),
        "partial": functools.partial(original, module),
        "partial of a bound method": functools.partial(lambda f, images: f(module, images), original),
    }


@pytest.mark.parametrize("kind", ["closure", "partial", "partial of a bound method"])
def test_a_replaced_forward_that_refers_to_the_module_is_refused(kind: str, tiny_encoder: nn.Module) -> None:
    whole = nn.Sequential(tiny_encoder)
    require_own_forward(whole)
    tiny_encoder.forward = forwards(tiny_encoder)[kind]
    with pytest.raises(EncoderError, match="forward of '0' was replaced"):
        require_own_forward(whole)


def test_a_replaced_forward_that_is_copied_with_the_module_is_taken(tiny_encoder: nn.Module) -> None:
    tiny_encoder.forward = types.MethodType(type(tiny_encoder).forward, tiny_encoder)
    require_own_forward(tiny_encoder)
    made = copied(tiny_encoder)
    assert made.forward.__self__ is made
