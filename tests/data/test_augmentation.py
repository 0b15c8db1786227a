"""Augmentation: of training images alone, each in its own way, and reproducible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import DataSplits, HardenConfig, harden
from genaf_sdk.config import LoadingConfig
from genaf_sdk.data import LabeledImages, load_data
from genaf_sdk.data.augmentation import AUGMENTATIONS, augmented
from genaf_sdk.engine.schedule import Schedule
from genaf_sdk.errors import ConfigError


def images(count: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("augmentation", [name for name in AUGMENTATIONS if name != "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_changed_in_a_way_that_its_seed_decides(augmentation: str, channels: int) -> None:
    pixels = images(1, channels).expand(32, -1, -1, -1)
    seeds = torch.arange(32)
    before = torch.random.get_rng_state()
    changed = augmented(pixels, augmentation, seeds)
    assert torch.random.get_rng_state().equal(before)
    assert changed.shape == pixels.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    distinct = len(changed.flatten(1).unique(dim=0))
    assert distinct == 2 if augmentation == "flip" else distinct > 20
    assert augmented(pixels[:5], augmentation, seeds[[4, 3, 2, 1, 0]]).equal(changed[[4, 3, 2, 1, 0]])


def test_flips_are_flips() -> None:
    pixels = images(64)
    changed = augmented(pixels, "flip", torch.arange(64))
    flipped = [index for index in range(64) if changed[index].equal(pixels[index].flip(2))]
    assert 16 < len(flipped) < 48
    assert all(changed[index].equal(pixels[index]) for index in range(64) if index not in flipped)


def test_none_changes_nothing_and_what_cannot_be_used_is_refused() -> None:
    pixels = images(3)
    assert augmented(pixels, "none", torch.arange(3)) is pixels
    assert augmented(images(3, channels=4), "crop", torch.arange(3)).shape == (3, 4, 12, 10)
    with pytest.raises(ConfigError, match="4 channels"):
        augmented(images(3, channels=4), "trivial", torch.arange(3))
    with pytest.raises(ConfigError, match="one of none, flip, crop, trivial"):
        augmented(pixels, "blur", torch.arange(3))
    with pytest.raises(ConfigError, match="augmentation is 'blur'"):
        Schedule(augmentation="blur")


def test_training_sees_augmented_images_and_validation_does_not(
    striped: DataSplits, quick_config: HardenConfig, tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(pixels: Tensor, augmentation: str, seeds: Tensor) -> Tensor:
        seen.append((augmentation, len(pixels)))
        return augmented(pixels, augmentation, seeds)

    monkeypatch.setattr("genaf_sdk.engine.batches.augmented", spy)
    config = quick_config.with_(method={"schedule": {"epochs": 1, "augmentation": "crop"}})
    harden(tiny_encoder, striped, config, evaluate=False, progress=False, preflight=False)
    assert {kind for kind, _ in seen} == {"crop"}
    assert sum(count for _, count in seen) == 96 * (1 + 2)


def test_harden_reads_data_as_the_settings_and_the_encoder_say(
    striped: DataSplits, quick_config: HardenConfig, tiny_encoder: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def spy(dataset: object, **options: object) -> DataSplits:
        asked.update(options)
        return load_data(dataset, **options)

    monkeypatch.setattr("genaf_sdk.preparation.load_data", spy)
    parts = [LabeledImages.in_memory(*split.sample()) for split in (striped.train.subset(range(1, 60)), striped.test)]
    settings = LoadingConfig(balance="repeat", skip_corrupt=True)
    config = quick_config.with_(loading=settings, method={"schedule": {"epochs": 1}})
    result = harden(tiny_encoder, parts, config, evaluate=False, progress=False)
    assert asked.items() >= {"balance": "repeat", "skip_corrupt": True, "download": False}.items()
    assert asked["interpolation"] == result.data.interpolation == "bilinear"
    assert len(set(result.data.class_counts())) == 1
    with pytest.raises(ConfigError, match="one of 'none', 'repeat'"):
        LoadingConfig(balance="weights")


def test_a_crop_shows_half_of_the_area_at_least() -> None:
    """Channels tell where a pixel was."""
    line = torch.linspace(0, 1, 64)
    places = torch.stack([line[:, None].expand(64, 64), line.expand(64, 64), torch.zeros(64, 64)])
    cropped = augmented(places.expand(60, -1, -1, -1), "crop", torch.arange(60))
    sides = cropped.flatten(2).amax(dim=2) - cropped.flatten(2).amin(dim=2)
    areas = sides[:, 0] * sides[:, 1]
    assert 0.45 < float(areas.min()) < 0.6
    assert float(areas.max()) > 0.8
