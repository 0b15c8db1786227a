"""SSP in its universal form: push the activations of a middle layer away from the clean ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import falling, image_batches, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import EncoderAttack, register
from genaf_sdk.attacks.layers import activations, layer_at
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class SSP(EncoderAttack):
    """Maximises ``MSE(h_l(x + d), h_l(x))``, the self-supervised perturbation, with one d for all images.

    The publication perturbs each image by itself; the objective is the same. Native budget 16/255.
    """

    name = "ssp"
    source = "Naseer et al., A Self-supervised Approach for Adversarial Robustness, CVPR 2020"

    layer: str = ""
    """Name of the layer; empty finds it by ``depth``."""
    depth: float = 0.5
    """Where the layer lies, 0 for the first and 1 for the last."""
    steps: int = 300
    relative_step: float = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""
    batch_size: int = 64

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend; a pass through the encoder ends at the layer."""
        layer = layer_at(encoder, surrogate, self.depth, self.layer)
        batches = image_batches(surrogate, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            images = next(batches)
            with torch.no_grad():
                (clean,) = activations(encoder, [layer], images)
            (moved,) = activations(encoder, [layer], shown(images, delta))
            return F.mse_loss(moved, clean)

        start = random_start(surrogate, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, falling(self.relative_step * self.budget, self.steps))
        return Perturbation(delta, self.budget, details={"layer": layer})
