"""PGD: projected sign-gradient ascent of the cross-entropy, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.base import SampleWiseAttack, register

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.attacks.base import Classifier


@register
@dataclass(frozen=True)
class PGD(SampleWiseAttack):
    """L_inf PGD with random start; an image that is fooled at the end of a restart is left out of the next.

    Of the restarts that do not fool an image, the one that comes closest is kept. Native budget 8/255 (CIFAR-10).
    """

    name = "pgd"
    source = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"

    steps: int = 20
    relative_step: float = 0.25
    """Length of a step as a share of the budget."""
    restarts: int = 1

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Ascend from every start."""
        best, highest = pixels.clone(), torch.full((len(pixels),), -torch.inf, device=pixels.device)
        for _ in range(self.restarts):
            rows = torch.nonzero(highest <= 0).flatten()
            if len(rows) == 0:
                break
            adversarial = self._ascend(model, pixels[rows], labels[rows], generator)
            with torch.no_grad():
                margins = margin_loss(model(adversarial), labels[rows])
            closer = margins > highest[rows]
            best[rows[closer]], highest[rows[closer]] = adversarial[closer], margins[closer]
        return best

    def _ascend(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        start = torch.empty(pixels.shape).uniform_(-self.budget, self.budget, generator=generator)
        adversarial = (pixels + start.to(pixels)).clamp(0, 1)
        for _ in range(self.steps):
            adversarial.requires_grad_()
            loss = F.cross_entropy(model(adversarial), labels, reduction="sum")
            moved = adversarial.detach() + self.budget * self.relative_step * gradient_of(loss, adversarial).sign()
            adversarial = torch.clamp(moved, pixels - self.budget, pixels + self.budget).clamp(0, 1)
        return adversarial


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, (N, K) -> (N,): positive where the model is fooled."""
    right = logits.gather(1, labels[:, None])[:, 0]
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return wrong - right
