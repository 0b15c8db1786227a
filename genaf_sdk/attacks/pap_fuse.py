"""PAP (L4A), fused form: lift the activations of two low layers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genaf_sdk.attacks.ascent import image_batches, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import EncoderAttack, register
from genaf_sdk.attacks.layers import activations, layer_at
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class PapFuse(EncoderAttack):
    """Maximises ``mean(h_l(x + d)^2) + second_weight mean(h_k(x + d)^2)`` at two low layers l and k.

    Native budget 0.05 and step 2e-4; the budget here is the one of the joint tables.
    """

    name = "pap-fuse"
    source = "Ban and Dong, Pre-trained Adversarial Perturbations, NeurIPS 2022 (L4A-fuse)"

    layer: str = ""
    """Name of the first layer; empty finds it by ``depth``."""
    second_layer: str = ""
    """Name of the second layer; empty finds it by ``second_depth``."""
    depth: float = 0.0
    second_depth: float = 0.25
    second_weight: float = 1.0
    steps: int = 500
    step_size: float = 2e-4
    batch_size: int = 64

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend; a pass through the encoder ends at the second layer."""
        layers = [
            layer_at(encoder, surrogate, self.depth, self.layer),
            layer_at(encoder, surrogate, self.second_depth, self.second_layer),
        ]
        batches = image_batches(surrogate, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            first, second = activations(encoder, layers, shown(next(batches), delta))
            return first.square().mean() + self.second_weight * second.square().mean()

        start = random_start(surrogate, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, [self.step_size] * self.steps)
        return Perturbation(delta, self.budget, details={"layer": layers[0], "second_layer": layers[1]})
