"""Processors of transformers, in full: the encoder computes what the processor would have given the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from genaf_sdk.encoders.processor import read_processor
from genaf_sdk.encoders.source import EncoderOptions
from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import PixelEncoder

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
BYTES = {"image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}
MODEL = SimpleNamespace(image_size=32)


def read(processor: dict[str, Any], **options: Any):
    return read_processor(processor, MODEL, "some/model", EncoderOptions(**options))


def channels(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


PROCESSORS = {
    "usual": (HALF, lambda b: (b / 255 - 0.5) / 0.5),
    "scalars": ({"image_mean": 0.5, "image_std": 0.25}, lambda b: (b / 255 - 0.5) / 0.25),
    "one mean, three deviations": (
        {"image_mean": 0.5, "image_std": [0.5, 0.25, 0.2]},
        lambda b: (b / 255 - 0.5) / channels([0.5, 0.25, 0.2]),
    ),
    "not normalized": ({"do_normalize": False, **HALF}, lambda b: b / 255),
    "not rescaled": (
        {"do_rescale": False, **BYTES},
        lambda b: (b - channels(BYTES["image_mean"])) / channels(BYTES["image_std"]),
    ),
    "neither": ({"do_rescale": False, "do_normalize": False}, lambda b: b),
    "rescaled by 1": ({"rescale_factor": 1.0, "do_normalize": False}, lambda b: b),
    "offset": (
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
        lambda b: b / 127.5 - 1,
    ),
    "offset, then normalized": (
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "image_mean": [0.1] * 3, "image_std": [0.8] * 3},
        lambda b: (b / 127.5 - 1 - 0.1) / 0.8,
    ),
    "include_top": ({**HALF, "include_top": True}, lambda b: (b / 255 - 0.5) / 0.5 / 0.5),
    "include_top by kind": (
        {**HALF, "image_processor_type": "EfficientNetImageProcessor"},
        lambda b: (b / 255 - 0.5) / 0.5 / 0.5,
    ),
    "include_top alone": ({"do_normalize": False, "include_top": True, "image_std": 0.25}, lambda b: b / 255 / 0.25),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_every_step_is_followed(kind: str) -> None:
    settings, expected = PROCESSORS[kind]
    found = read(settings)
    encoder = PixelEncoder(nn.Flatten(), mean=found.mean, std=found.std)
    images = torch.randint(0, 256, (2, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    torch.testing.assert_close(encoder(images / 255), expected(images).flatten(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 48}, (48, 48)),
        ({"size": {"height": 48, "width": 64}}, (48, 64)),
        ({"size": {"shortest_edge": 48}}, (48, 48)),
        ({"size": {"shortest_edge": 48}, "crop_size": {"height": 24, "width": 24}}, (24, 24)),
        ({"size": 48, "crop_size": 24, "do_center_crop": True}, (24, 24)),
        ({"size": 48, "crop_size": 24, "do_center_crop": False}, (48, 48)),
        ({"size": 48, "do_resize": False}, (32, 32)),
        ({}, (32, 32)),
    ],
)
def test_the_size_is_that_of_the_images_that_reach_the_model(settings: dict, size: tuple[int, int]) -> None:
    assert read(HALF | settings).image_size == size


@pytest.mark.parametrize(
    ("resample", "name"), [(0, "nearest"), (1, "lanczos"), (2, "bilinear"), (3, "bicubic"), ("bicubic", "bicubic")]
)
def test_resampling_is_read_as_number_and_as_word(resample: object, name: str) -> None:
    assert read({**HALF, "resample": resample}).interpolation == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 4}, "resample is 4"),
        ({"resample": "box"}, "resample is 'box'"),
        ({"resample": [3]}, "resample"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "a"}, "rescale_factor"),
        ({"rescale_factor": [1, 2]}, "rescale_factor"),
        ({"do_rescale": "no"}, "do_rescale"),
        ({"image_mean": "a"}, "mean is"),
        ({"image_std": None}, "no 'image_std'"),
        ({"size": "large"}, "size"),
        ({"size": {"height": -1, "width": 3}}, "size"),
        ({"size": {"height": [1], "width": 3}}, "size"),
        ({"do_flip_channel_order": True}, "blue, green, red"),
        ({"do_grayscale": True}, "asks for do_grayscale"),
        ({"do_color_quantize": True, "do_pad": True}, "asks for do_color_quantize"),
    ],
)
def test_what_cannot_be_followed_is_named(settings: dict, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        read(HALF | settings)


def test_a_normalization_that_is_passed_goes_first() -> None:
    found = read({"size": 48}, mean=(0.1,), std=(0.2,))
    assert (found.mean, found.std, found.image_size) == ((0.1,), (0.2,), (48, 48))
