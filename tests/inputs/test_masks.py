"""Mask sets: every patch lies inside at least one mask."""

from __future__ import annotations

import math

import pytest
import torch

from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.masks import MaskSet, covering_places, proven_side
from genaf_sdk.inputs.patches import patch_sides


def test_every_window_lies_inside_a_mask_by_brute_force() -> None:
    cases = 0
    for length in [*range(1, 41), 96, 224]:
        for patch in {*range(1, length + 1, max(1, length // 12)), length}:
            for count in (1, 2, 3, 4, 6, 7):
                side, places = covering_places(length, patch, count)
                for start in range(length - patch + 1):
                    assert any(place <= start and start + patch <= place + side for place in places)
                assert len(places) == len(set(places)) <= count
                assert min(places) == 0
                assert max(places) + side == length
                cases += 1
    assert cases > 2500


@pytest.mark.parametrize(
    ("image", "patch", "count"), [((12, 12), (3, 3), 3), ((9, 14), (4, 2), 4), ((7, 7), (7, 7), 3)]
)
def test_masks_hide_every_patch_of_an_image(image: tuple[int, int], patch: tuple[int, int], count: int) -> None:
    masks = MaskSet.covering(image, patch, count)
    for top in range(image[0] - patch[0] + 1):
        for left in range(image[1] - patch[1] + 1):
            lit = torch.zeros(1, *image, dtype=torch.bool)
            lit[:, top : top + patch[0], left : left + patch[1]] = True
            assert any(not bool((lit & ~mask).any()) for mask in masks.table)


@pytest.mark.parametrize(
    ("side", "patch", "count", "mask"),
    [(32, 6, 3, 14), (32, 6, 4, 12), (32, 6, 6, 10), (96, 17, 3, 43), (96, 17, 4, 36), (128, 23, 6, 40),
     (224, 32, 3, 96), (224, 39, 4, 85), (224, 39, 6, 69)],
)  # fmt: skip
def test_masks_have_their_published_sides(side: int, patch: int, count: int, mask: int) -> None:
    masks = MaskSet.covering((side, side), (patch, patch), count)
    assert (masks.sides, len(masks)) == ((mask, mask), count**2)
    assert len(masks.pairs) == count**2 * (count**2 + 1) // 2
    assert len({tuple(sorted(pair)) for pair in masks.pairs.tolist()}) == len(masks.pairs)


def test_the_proven_square_holds_every_patch_that_attacks_put_on() -> None:
    for height in range(4, 60, 3):
        for width in range(4, 60, 5):
            for area in (0.01, 0.03, 0.1, 0.5):
                if area * height * width < 1:
                    continue
                side = proven_side((height, width), area)
                assert side >= max(patch_sides(height, width, area))
                assert side**2 >= math.floor(area * height * width)
    assert [proven_side((side, side), 0.03) for side in (32, 96, 128, 224)] == [6, 17, 23, 39]


def test_what_is_under_a_mask_is_gone() -> None:
    masks = MaskSet.covering((8, 8), (2, 2), 3)
    images = torch.rand(len(masks), 3, 8, 8)
    fill = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    pairs = masks.pairs[: len(masks)]
    attacked = torch.where(masks.table, torch.nan, images)
    assert torch.equal(masks.hide(attacked, pairs, fill), masks.hide(images, pairs, fill))
    assert bool((masks.hide(images, pairs, fill) == torch.where(masks.table, fill, images)).all())


@pytest.mark.parametrize(("length", "patch", "count"), [(8, 9, 3), (8, 0, 3), (8, 2, 0)])
def test_masks_that_cannot_be_are_refused(length: int, patch: int, count: int) -> None:
    with pytest.raises(AttackError, match="are to hide a patch"):
        covering_places(length, patch, count)
