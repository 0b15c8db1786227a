"""Label UAP: UAPGD on the downstream cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genaf_sdk.attacks.base import UniversalModelAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.targets import LabelTarget
from genaf_sdk.attacks.tried_uap import TriedUAP
from genaf_sdk.settings import Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class LabelUAP(TriedUAP, UniversalModelAttack):
    """Maximizes ``mean(min(CE(f(x + d), y), clamp))``, or the margin of the logits capped at 5.

    The cap keeps images that are already misclassified from dominating the gradient. Where a first short run loses less
    than half of the held-out images, others pull all images to one class, and the long run begins there; kept is what
    leaves fewest held-out images right. The publication clamps at 9 and uses a fixed step. Native budgets 8/255
    (CIFAR-10) and 10/255 (ImageNet).
    """

    name = "label-uap"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020"

    loss: Literal["cross-entropy", "margin"] = "cross-entropy"
    clamp: float = 9.0
    relative_step_size: Share = 0.25
    """Length of the first step, as a share of the budget."""

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb from noise."""
        return self.strongest(model, self._target(model, pixels, labels, generator), generator)

    def run_from(
        self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        """Climb from ``start``, too, if that is needed: the result is not weaker on the images that judge."""
        return self.strongest(model, self._target(model, pixels, labels, generator), generator, start.values.to(pixels))

    def _target(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> LabelTarget:
        return LabelTarget(model, pixels, labels, self.clamp, generator, self.held_out)
