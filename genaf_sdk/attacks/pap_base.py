"""PAP (L4A), base form: lift the activations of a low layer."""

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
class PapBase(EncoderAttack):
    """Maximises ``mean(h_l(x + d)^2)`` at a low layer l, whose weights fine-tuning hardly changes.

    Native budget 0.05 and step 2e-4; the budget here is the one of the joint tables.
    """

    name = "pap-base"
    source = "Ban and Dong, Pre-trained Adversarial Perturbations, NeurIPS 2022 (L4A-base)"

    layer: str = ""
    """Name of the layer; empty finds it by ``depth``."""
    depth: float = 0.25
    """Where the layer lies, 0 for the first and 1 for the last."""
    steps: int = 500
    step_size: float = 2e-4
    batch_size: int = 64

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend; a pass through the encoder ends at the layer."""
        layer = layer_at(encoder, surrogate, self.depth, self.layer)
        batches = image_batches(surrogate, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            (activation,) = activations(encoder, [layer], shown(next(batches), delta))
            return activation.square().mean()

        start = random_start(surrogate, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, [self.step_size] * self.steps)
        return Perturbation(delta, self.budget, details={"layer": layer})
