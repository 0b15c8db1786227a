"""SSP in its universal form: push the activations of a middle layer away from the clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import linear_decay
from genaf_sdk.attacks.layer_attack import LayerAttack
from genaf_sdk.attacks.registry import register
from genaf_sdk.settings import Share

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.attacks.layer_attack import AttackedLayers


@register
@dataclass(frozen=True)
class SSP(LayerAttack):
    """Maximizes ``MSE(h_l(x + d), h_l(x))``, the self-supervised perturbation, with one d for all images.

    The publication perturbs each image by itself; the objective is the same. Native budget 16/255.
    """

    name = "ssp"
    source = "Naseer et al., A Self-supervised Approach for Adversarial Robustness, CVPR 2020"

    relative_step_size: Share = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""

    def objective(self, layers: AttackedLayers, images: Tensor, delta: Tensor) -> Tensor:
        """Return the mean squared change of the activations."""
        with torch.no_grad():
            (clean,) = layers(images)
        (moved,) = layers(layers.space.add(images, delta))
        return F.mse_loss(moved, clean)

    def step_sizes(self) -> list[float]:
        """Return steps that fall linearly."""
        return linear_decay(self.relative_step_size * self.budget, self.steps)
