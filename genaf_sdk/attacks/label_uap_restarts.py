"""Label UAP at its limit: restarts over two losses, judged on held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import UniversalModelAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.restarted_uap import RestartedUAP
from genaf_sdk.attacks.targets import LabelTarget
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class LabelUAPRestarts(RestartedUAP, UniversalModelAttack):
    """Climbs ``mean(min(CE(f(x + d), y), clamp))``, then the margin of the logits capped at 5.

    A quarter of the images is held out; kept is what leaves fewest of them right, over all epochs and restarts.
    ``details`` say which loss won and whether it had converged. Native budgets as label UAP's.
    """

    name = "label-uap-restarts"
    source = "Shafahi et al., Universal Adversarial Training, AAAI 2020; restarts ours"

    losses = ("cross-entropy", "margin")

    clamp: float = 9.0
    restarts: Count = 2
    relative_step_size: Share = 0.25
    """Length of the first step, as a share of the budget; it falls linearly to zero."""

    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb from random starts."""
        return self.strongest(model, LabelTarget(model, pixels, labels, self.clamp, generator), generator)
