"""Feature PGD: every image by itself is driven away from its own features, with no labels and no head at hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import gradient_of, linear_decay
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import FeatureAttack
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.parts import in_parts
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    from torch import Tensor, nn

TEMPERATURE = 0.1


@register
@dataclass(frozen=True)
class FeaturePGD(FeatureAttack):
    """Sign ascent of InfoNCE against the clean features of the batch: away from the image's own, towards another's.

    An image that has no other beside it is driven away from its own features by the cosine similarity alone.
    The publication maximizes the distance of feature maps. Who has the published encoder alone needs nothing more than
    this to attack one image of a task (the "backbone attack"). Kept is the step of the largest loss.
    """

    name = "feature-pgd"
    source = "Naseer et al., Task-generalizable Adversarial Attack based on Perceptual Metric, 2018"
    only_outputs = True

    steps: Count = 20
    relative_step_size: Share = 0.25
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def run(self, encoder: nn.Module, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Ascend."""
        space, ball = input_space(encoder, pixels), Linf(self.budget)
        with torch.no_grad():
            clean = F.normalize(in_parts(encoder, pixels), dim=1)
        own = torch.arange(len(pixels), device=pixels.device)
        current = space.clip(pixels + ball.start(pixels, generator))
        best, highest = current, pixels.new_full((len(pixels),), -torch.inf)
        for step_size in [*linear_decay(self.relative_step_size * self.budget, self.steps), 0.0]:
            images = current.detach().requires_grad_()
            similarity = F.normalize(in_parts(encoder, images), dim=1) @ clean.T / TEMPERATURE
            losses = F.cross_entropy(similarity, own, reduction="none") if len(own) > 1 else -similarity[:, 0]
            farther = losses.detach() > highest
            best = torch.where(farther[:, None, None, None], images.detach(), best)
            highest = torch.maximum(highest, losses.detach())
            if step_size == 0:
                break
            direction = gradient_of(losses.sum(), images).sign()
            current = ball.project_inputs(space, images.detach() + step_size * direction, pixels)
        return best
