"""Label UAP: UAPGD on the downstream cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from genaf_sdk.attacks.ascent import linear_decay, sign_ascent
from genaf_sdk.attacks.base import UniversalModelAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class LabelUAP(UniversalModelAttack):
    """Maximizes ``mean(min(CE(f(x + d), y), clamp))``.

    The cap keeps images that are already misclassified from dominating the gradient. The publication clamps at 9
    and uses a fixed step. Native budgets 8/255 (CIFAR-10) and 10/255 (ImageNet).
    """

    name = "label-uap"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020"

    clamp: float = 9.0
    steps: Count = 300
    batch_size: Count = 128
    relative_step_size: Share = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend."""
        space = input_space(model, pixels)
        order = endless_batches(len(pixels), self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            batch = next(order).to(pixels.device)
            losses = F.cross_entropy(model(space.add(pixels[batch], delta)), labels[batch], reduction="none")
            return losses.clamp(max=self.clamp).mean()

        start = self.threat.start(pixels[0], generator)
        step_sizes = linear_decay(self.relative_step_size * self.budget, self.steps)
        return Perturbation(sign_ascent(objective, start, self.threat, step_sizes), self.threat)
