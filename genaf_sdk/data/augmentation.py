"""Augmentation of training images by torchvision.transforms.v2; evaluation never comes here."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from genaf_sdk.errors import ConfigError
from genaf_sdk.inputs.images import image_space

if TYPE_CHECKING:
    from torch import Tensor, nn

AUGMENTATIONS = ("none", "flip", "crop", "trivial")
LEAST_AREA = 0.5


def augmented(pixels: Tensor, augmentation: str, seeds: Tensor) -> Tensor:
    """Change every image in a way of its own, which its seed decides; torch's global generator is left as it was.

    Args:
        pixels: Images (N, C, H, W) in [0, 1].
        augmentation: One of ``AUGMENTATIONS``; ``Schedule.augmentation`` says what they are.
        seeds: One whole number an image, at least 0, int64 (N,).

    Returns:
        Images of the same shape and range.

    Raises:
        ConfigError: There is no such augmentation, or it does not work on this number of channels.
    """
    if augmentation == "none":
        return pixels
    if augmentation not in AUGMENTATIONS:
        raise ConfigError(f"augmentation is {augmentation!r}.", expected=f"one of {', '.join(AUGMENTATIONS)}")
    if augmentation == "trivial" and pixels.shape[1] not in (1, 3):
        raise ConfigError(
            f"The augmentation 'trivial' changes colors, and the images have {pixels.shape[1]} channels.",
            expected="images of 1 or 3 channels",
            remedy="use augmentation='crop'",
        )
    transform = _transform(augmentation, tuple(pixels.shape[2:]))
    changed = torch.empty_like(pixels)
    with torch.random.fork_rng(devices=[]):
        for index, seed in enumerate(seeds.tolist()):
            torch.default_generator.manual_seed(seed)  # v2 has no argument for a generator
            changed[index] = transform(pixels[index])
    return image_space(changed).clip(changed)


@cache
def _transform(augmentation: str, size: tuple[int, int]) -> nn.Module:
    from torchvision.transforms import v2

    steps: list[nn.Module] = [v2.RandomHorizontalFlip()]
    if augmentation in ("crop", "trivial"):
        steps.append(v2.RandomResizedCrop(size, scale=(LEAST_AREA, 1.0), antialias=True))
    if augmentation == "trivial":
        steps.append(v2.TrivialAugmentWide())
    composed: nn.Module = v2.Compose(steps)
    return composed
