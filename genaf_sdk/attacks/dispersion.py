"""Dispersion reduction: flatten the activations of a middle layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.ascent import linear_decay
from genaf_sdk.attacks.layer_attack import LayerAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.settings import Share

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.attacks.layer_attack import AttackedLayers


@register
@dataclass(frozen=True)
class Dispersion(LayerAttack):
    """Minimizes the standard deviation of ``h_l(x + d)`` over channels and places, on average over the images.

    The publication (its attack is called DR there and STD in comparisons) perturbs each image by itself; the objective
    is the same. Native budget 16/255.
    """

    name = "dispersion"
    source = "Lu et al., Enhancing Cross-Task Black-Box Transferability with Dispersion Reduction, CVPR 2020"

    relative_step_size: Share = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def objective(self, layers: AttackedLayers, images: Tensor, delta: Tensor) -> Tensor:
        """Return minus the mean standard deviation."""
        (activation,) = layers(layers.space.add(images, delta))
        return -activation.flatten(1).std(dim=1).mean()

    def step_sizes(self) -> list[float]:
        """Return steps that fall linearly."""
        return linear_decay(self.relative_step_size * self.budget, self.steps)
