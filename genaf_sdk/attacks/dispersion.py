"""Dispersion reduction: flatten the activations of a middle layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.ascent import falling, image_batches, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import EncoderAttack, register
from genaf_sdk.attacks.layers import activations, layer_at
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Dispersion(EncoderAttack):
    """Minimises the standard deviation of ``h_l(x + d)`` over channels and places, on average over the images.

    The publication (its attack is called DR there and STD in comparisons) perturbs each image by itself; the objective
    is the same. Native budget 16/255.
    """

    name = "dispersion"
    source = "Lu et al., Enhancing Cross-Task Black-Box Transferability with Dispersion Reduction, CVPR 2020"

    layer: str = ""
    """Name of the layer; empty finds it by ``depth``."""
    depth: float = 0.5
    """Where the layer lies, 0 for the first and 1 for the last."""
    steps: int = 300
    relative_step: float = 0.1
    """Length of the first step, as a share of the budget; it falls linearly to a tenth of that."""
    batch_size: int = 64

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Descend; a pass through the encoder ends at the layer."""
        layer = layer_at(encoder, surrogate, self.depth, self.layer)
        batches = image_batches(surrogate, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            (activation,) = activations(encoder, [layer], shown(next(batches), delta))
            return -activation.flatten(1).std(dim=1).mean()

        start = random_start(surrogate, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, falling(self.relative_step * self.budget, self.steps))
        return Perturbation(delta, self.budget, details={"layer": layer})
