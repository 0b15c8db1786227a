"""Label UAP: UAPGD on the downstream cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

from genaf_sdk.attacks.ascent import falling, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import UniversalModelAttack, batches_forever, register
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class LabelUAP(UniversalModelAttack):
    """Maximises ``mean(min(CE(f(x + d), y), clamp))``; images that are long lost stop pulling.

    The publication clamps at 9 and uses a fixed step. Native budgets 8/255 (CIFAR-10) and 10/255 (ImageNet).
    """

    name = "label-uap"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020"

    clamp: float = 9.0
    steps: int = 300
    batch_size: int = 128
    relative_step: float = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend."""
        order = batches_forever(len(pixels), self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            batch = next(order).to(pixels.device)
            losses = F.cross_entropy(model(shown(pixels[batch], delta)), labels[batch], reduction="none")
            return losses.clamp(max=self.clamp).mean()

        start = random_start(pixels, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, falling(self.relative_step * self.budget, self.steps))
        return Perturbation(delta, self.budget)
