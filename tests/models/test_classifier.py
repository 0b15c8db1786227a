"""A classifier answers with names, and refuses what the server would refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk.errors import DataError
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head


@pytest.fixture
def model(tiny_encoder: nn.Module) -> Classifier:
    encoder = PixelEncoder(tiny_encoder)
    return Classifier(encoder, build_head("mlp", 16, 3), class_names=("red", "green", "blue"), image_size=(16, 16))


def test_predictions_are_names_and_the_mode_stays(model: Classifier) -> None:
    pixels = torch.rand(5, 3, 16, 16)
    model.train()
    names = model.predict(pixels)
    assert model.training
    assert names == [("red", "green", "blue")[index] for index in model.eval()(pixels).argmax(1)]


def pixels_with(value: float) -> Tensor:
    pixels = torch.rand(4, 3, 16, 16)
    pixels[1, 0, 0, 0] = value
    return pixels


@pytest.mark.parametrize(
    "pixels",
    [
        torch.rand(4, 3, 16, 16) * 255,
        pixels_with(float("nan")),
        pixels_with(float("inf")),
        pixels_with(-0.1),
        torch.rand(4, 3, 64, 64),
        torch.rand(4, 1, 16, 16),
        torch.rand(3, 16, 16),
        torch.rand(0, 3, 16, 16),
        torch.zeros(4, 3, 16, 16, dtype=torch.uint8),
        torch.rand(4, 3, 16, 16).numpy(),
        "picture.png",
    ],
)
def test_what_the_server_refuses_is_refused(pixels: Any, model: Classifier) -> None:
    with pytest.raises(DataError, match=r"The model was given"):
        model.predict(pixels)
