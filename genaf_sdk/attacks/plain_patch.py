"""The simplest patch there is: a rectangle in black or white, at the place that does most."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import FEWEST_HELD_OUT, FIRST_JUDGES, FeatureTarget
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.patches import grid_places, mask_at, patch_sides
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Count, Epsilon


@register
@dataclass(frozen=True)
class PlainPatch(EncoderAttack):
    """Of black and white rectangles at the places of a grid, the one that moves features farthest (cosine distance).

    Nothing in it belongs to the encoder that it was chosen on. So it can do more to a classifier that was made from the
    encoder than a patch whose pixels climbed there: on traffic signs it left 70 % where such a patch left 93 %.
    """

    name = "plain-patch"
    source = "ours: what patches that climb have to beat"

    is_patch: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False
    only_outputs = True
    budget: Epsilon = 0.03
    """Share of the area."""
    grid: Count = 8
    """Places along each axis that are tried."""

    def passes(self, images: int) -> float:
        """Return those of looking at every place in both colors, at a third on twice as many images; forth alone."""
        rounds = int(math.log2(FEWEST_HELD_OUT / FIRST_JUDGES)) + 1
        looks = (2 * self.grid**2 * 3.0**-one * min(images, FIRST_JUDGES << one) for one in range(rounds))
        return sum(looks) / 3

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Look at all on 32 images, at the best third on twice as many, and so on up to 128."""
        drawn = torch.randperm(len(surrogate), generator=generator)[:FEWEST_HELD_OUT].to(surrogate.device)
        target = FeatureTarget(encoder, surrogate[drawn], generator, held_out=0)
        space, image = input_space(encoder, surrogate), (surrogate.shape[-2], surrogate.shape[-1])
        sides = patch_sides(*image, self.budget)

        def shown(place: tuple[int, int], color: float) -> tuple[Tensor, Tensor]:
            mask = mask_at(image, sides, place).to(surrogate)
            return color * mask.expand(surrogate.shape[1:]), mask

        def moved(candidate: tuple[tuple[int, int], float], judges: int) -> float:
            values, mask = shown(*candidate)
            return target.success(lambda images: self.threat.apply(space, images, values, mask), judges).distance

        left, judges = list(itertools.product(grid_places(image, sides, self.grid), (0.0, 1.0))), FIRST_JUDGES
        while judges < FEWEST_HELD_OUT:
            left = sorted(left, key=partial(moved, judges=judges), reverse=True)[: math.ceil(len(left) / 3)]
            judges *= 2
        place, color = max(left, key=partial(moved, judges=judges))
        values, mask = shown(place, color)
        return Perturbation(values, self.threat, mask, details={"places": f"{place[0]},{place[1]}", "color": color})
