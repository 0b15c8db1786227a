"""PGD: projected sign-gradient ascent of the cross-entropy, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.base import SampleWiseAttack, register


@register
@dataclass(frozen=True)
class PGD(SampleWiseAttack):
    """L_inf PGD with random start; of several restarts the one that ends in the highest loss is kept, per image."""

    name = "pgd"
    source = "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018"

    budget: float = 8 / 255
    steps: int = 20
    relative_step: float = 0.25
    """Length of a step as a share of the budget."""
    restarts: int = 1

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Ascend from every start."""
        best, highest = pixels, torch.full((len(pixels),), -torch.inf, device=pixels.device)
        for _ in range(self.restarts):
            start = torch.empty(pixels.shape).uniform_(-self.budget, self.budget, generator=generator)
            adversarial = (pixels + start.to(pixels)).clamp(0, 1)
            for _ in range(self.steps):
                adversarial.requires_grad_()
                loss = F.cross_entropy(model(adversarial), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, adversarial)
                moved = adversarial.detach() + self.budget * self.relative_step * gradient.sign()
                adversarial = torch.clamp(moved, pixels - self.budget, pixels + self.budget).clamp(0, 1)
            with torch.no_grad():
                loss = margin_loss(model(adversarial), labels)
            better = loss > highest
            best = torch.where(better[:, None, None, None], adversarial, best)
            highest = torch.where(better, loss, highest)
        return best


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, (N, K) -> (N,): positive where the model is fooled."""
    right = logits.gather(1, labels[:, None])[:, 0]
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return wrong - right
