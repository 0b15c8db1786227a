"""AdvEncoder-PAT: a generated patch that serves against any downstream task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from genaf_sdk.attacks.advencoder import GeneratorAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.patches import patch_sides
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Epsilon, Share

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class AdvEncoderPat(GeneratorAttack):
    """The generator's map, cut to a patch near the bottom right corner, covers a share ``budget`` of every image.

    At 64 x 64 pixels the patch is the published one: 11 pixels wide, 14 from the edges. Elsewhere its sides are equal,
    or differ by as little as uses the area best, and it never covers more than the budget.
    """

    name = "advencoder-pat"
    source = "Zhou et al., Downstream-agnostic Adversarial Examples, ICCV 2023"
    is_patch: ClassVar[bool] = True

    budget: Epsilon = 0.03
    margin: Share = 14 / 64
    """Distance from the bottom and the right edge, as a share of the image's height and width."""

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Train the generator and return what it makes."""
        space, threat = input_space(encoder, surrogate), self.threat
        mask = corner_mask(surrogate.shape[2], surrogate.shape[3], self.budget, self.margin).to(surrogate)

        def attacked(images: Tensor, values: Tensor) -> Tensor:
            return threat.apply(space, images, threat.project((values + 1) / 2), mask)

        values = self.train(encoder, surrogate, generator, attacked)
        return Perturbation(threat.project((values + 1) / 2) * mask, threat, mask)


def corner_mask(height: int, width: int, area: float, margin: float) -> Tensor:
    """Return a mask (1, H, W), 1 on a patch of at most ``area`` of the image near its bottom right corner.

    Raises:
        AttackError: The area is less than a pixel.
    """
    rows, columns = patch_sides(height, width, area)
    bottom = max(height - round(margin * height), rows)
    right = max(width - round(margin * width), columns)
    mask = torch.zeros(1, height, width)
    mask[:, bottom - rows : bottom, right - columns : right] = 1
    return mask
