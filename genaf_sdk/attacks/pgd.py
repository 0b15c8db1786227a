"""PGD: projected sign-gradient ascent of the cross-entropy, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.losses import margin_loss
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.parts import in_parts
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.attacks.base import Classifier

SUCCESS_MARGIN = 1e-3
"""Margin, in logits, from which an image is fooled for good: rounding in another batch does not undo it."""


@register
@dataclass(frozen=True)
class PGD(SampleWiseAttack):
    """L_inf PGD with random start; misclassified images are skipped in later steps and restarts.

    Of the restarts that do not fool an image, the one that comes closest is kept. An image that comes no closer stays
    as it is: what was wrong is not right afterwards. Native budget 8/255 (CIFAR-10).
    """

    name = "pgd"
    source = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"
    only_outputs = True

    steps: Count = 20
    relative_step_size: Share = 0.25
    """Length of a step as a share of the budget."""
    restarts: Count = 1

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Ascend from every start."""
        best, rows = pixels.clone(), torch.arange(len(pixels), device=pixels.device)
        with torch.no_grad():
            highest = margin_loss(in_parts(model, pixels), labels)
        for _ in range(self.restarts):
            if len(rows) == 0:
                break
            adversarial = self._ascend(model, pixels[rows], labels[rows], generator)
            with torch.no_grad():
                margins = margin_loss(in_parts(model, adversarial), labels[rows])
            closer = margins > highest[rows]
            best[rows[closer]], highest[rows[closer]] = adversarial[closer], margins[closer]
            rows = torch.nonzero(highest <= 0).flatten()
        return best

    def _ascend(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        space, ball = input_space(model, pixels), Linf(self.budget)
        results = space.clip(pixels + ball.start(pixels, generator))
        rows = torch.arange(len(pixels), device=pixels.device)
        for _ in range(self.steps):
            adversarial = results[rows].requires_grad_()
            logits = in_parts(model, adversarial)
            still = margin_loss(logits.detach(), labels[rows]) <= SUCCESS_MARGIN
            if not bool(still.any()):
                break
            loss = F.cross_entropy(logits[still], labels[rows[still]], reduction="sum")
            direction = gradient_of(loss, adversarial)[still].sign()
            rows, originals = rows[still], pixels[rows[still]]
            moved = adversarial.detach()[still] + self.budget * self.relative_step_size * direction
            results[rows] = ball.project_inputs(space, moved, originals)
        return results
