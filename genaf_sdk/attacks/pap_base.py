"""PAP (L4A), base form: lift the activations of a low layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.layer_attack import LayerAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.settings import Count, Epsilon, Share

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.attacks.layer_attack import AttackedLayers


@register
@dataclass(frozen=True)
class PapBase(LayerAttack):
    """Maximizes ``mean(h_l(x + d)^2)`` at a low layer l, whose weights fine-tuning hardly changes.

    Native budget 0.05 and step 2e-4; the budget here is the one of the joint tables.
    """

    name = "pap-base"
    source = "Ban and Dong, Pre-trained Adversarial Perturbations, NeurIPS 2022 (L4A-base)"

    depth: Share = 0.25
    """Where the layer lies, 0 for the first and 1 for the last."""
    steps: Count = 500
    step_size: Epsilon = 2e-4

    def objective(self, layers: AttackedLayers, images: Tensor, delta: Tensor) -> Tensor:
        """Return the mean square of the activations."""
        (activation,) = layers(layers.space.add(images, delta))
        return activation.square().mean()

    def step_sizes(self) -> list[float]:
        """Return equal steps."""
        return [self.step_size] * self.steps
