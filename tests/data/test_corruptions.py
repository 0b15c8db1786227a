"""Common corruptions: grow with their strength, follow from image and seed alone, and are what their formulas say."""

from __future__ import annotations

import colorsys
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_sdk.data.corruptions import CORRUPTIONS, STRENGTHS, corrupted
from genaf_sdk.errors import DataError


def pictures(count: int = 6, side: int = 32, channels: int = 3) -> Tensor:
    """Soft blobs of color."""
    coarse = torch.rand(count, channels, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 96])
def test_images_get_further_away_with_the_strength(kind: str, side: int) -> None:
    images = pictures(side=side)
    distances = [float((corrupted(images, kind, s, range(6)) - images).square().mean()) for s in STRENGTHS]
    assert distances[0] > 0
    assert all(before < after for before, after in pairwise(distances)), distances


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 17, 30), (2, 4, 20, 20)])
def test_shape_range_and_what_was_given_are_kept(kind: str, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    images[0] = 0.0
    given = images.clone()
    for strength in (1, 5):
        found = corrupted(images, kind, strength, range(len(images)))
        assert (found.shape, found.dtype) == (images.shape, images.dtype)
        assert bool(torch.isfinite(found).all())
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    assert torch.equal(images, given)
    assert len(corrupted(images[:0], kind, 1, [])) == 0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_what_is_random_belongs_to_the_image_not_to_its_batch(kind: str) -> None:
    images = pictures()
    whole = corrupted(images, kind, 3, [11, 12, 13, 14, 15, 16])
    assert torch.equal(whole, corrupted(images, kind, 3, [11, 12, 13, 14, 15, 16]))
    turned = corrupted(images.flip(0), kind, 3, [16, 15, 14, 13, 12, 11]).flip(0)
    torch.testing.assert_close(whole, turned, atol=1e-6, rtol=0)
    alone = torch.cat([corrupted(images[i : i + 1], kind, 3, [11 + i]) for i in range(len(images))])
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_pixels_that_rounding_carried_below_black_are_black(kind: str) -> None:
    """Elsewhere they are taken as well; a light of less than nothing has no photons to draw."""
    images, keys = pictures(2), (0, 1)
    images[0] = 0.0
    low = images.clone()
    low[0] = -5e-7
    torch.testing.assert_close(corrupted(low, kind, 3, keys), corrupted(images, kind, 3, keys))


@pytest.mark.parametrize("kind", ["gaussian noise", "shot noise", "impulse noise", "motion blur", "fog", "elastic"])
def test_images_of_other_keys_are_corrupted_otherwise(kind: str) -> None:
    image = pictures(1)
    assert not torch.equal(corrupted(image, kind, 3, [0]), corrupted(image, kind, 3, [1]))


def test_contrast_is_the_plain_formula() -> None:
    images = pictures().numpy().astype(np.float64)
    for strength, share in zip(STRENGTHS, (0.4, 0.3, 0.2, 0.1, 0.05), strict=True):
        means = images.mean(axis=(2, 3), keepdims=True)
        expected = np.clip((images - means) * share + means, 0, 1)
        np.testing.assert_allclose(corrupted(pictures(), "contrast", strength, range(6)), expected, atol=1e-6)


def test_brightness_raises_the_value_of_hsv() -> None:
    images = pictures(2, 12)
    found = corrupted(images, "brightness", 2, range(2))
    for index in range(2):
        for row in range(12):
            for column in range(12):
                hue, saturation, value = colorsys.rgb_to_hsv(*images[index, :, row, column].tolist())
                expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
                assert found[index, :, row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_defocus_blur_is_the_mean_over_a_disc() -> None:
    side = 112  # half the side that radii are given for
    images = pictures(1, side)
    found = corrupted(images, "defocus blur", 3, [0])
    source, radius = images[0].numpy().astype(np.float64), 6 / 2
    points = np.random.default_rng(0).uniform(-radius, radius, (60_000, 2))
    points = points[(points**2).sum(axis=1) <= radius**2]
    for row, column in [(20, 20), (50, 70), (90, 33)]:
        y, x = points[:, 0] + row, points[:, 1] + column
        top, left = np.floor(y).astype(int), np.floor(x).astype(int)
        down, right = y - top, x - left
        expected = (
            source[:, top, left] * (1 - down) * (1 - right)
            + source[:, top, left + 1] * (1 - down) * right
            + source[:, top + 1, left] * down * (1 - right)
            + source[:, top + 1, left + 1] * down * right
        ).mean(axis=1)
        np.testing.assert_allclose(found[0, :, row, column], expected, atol=2e-3)


def test_noise_has_its_published_strength() -> None:
    gray = torch.full((4, 3, 64, 64), 0.5)
    gaussian = corrupted(gray, "gaussian noise", 2, range(4)) - gray
    assert float(gaussian.std()) == pytest.approx(0.12, rel=0.03)
    shot = corrupted(gray, "shot noise", 1, range(4)) - gray
    assert float(shot.std()) == pytest.approx(math.sqrt(0.5 / 60), rel=0.03)
    impulse = corrupted(gray, "impulse noise", 4, range(4))
    assert float((impulse != gray).float().mean()) == pytest.approx(0.17, rel=0.05)
    assert set(impulse.unique().tolist()) == {0.0, 0.5, 1.0}


def test_pixelate_makes_blocks_of_their_mean() -> None:
    images = pictures(2, 32)
    expected = F.interpolate(F.avg_pool2d(images, 4), scale_factor=4)
    torch.testing.assert_close(corrupted(images, "pixelate", 4, range(2)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "strength", "keys"), [("frost", 1, 2), ("fog", 0, 2), ("fog", 6, 2), ("fog", 1, 1)])
def test_what_cannot_be_done_is_refused(kind: str, strength: int, keys: int) -> None:
    with pytest.raises(DataError, match=r"no corruption|Strength"):
        corrupted(pictures(2), kind, strength, range(keys))
