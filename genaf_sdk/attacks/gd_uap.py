"""GD-UAP, generalisable data-free universal perturbations: over-fire all layers, with as much data as there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import image_batches, shown
from genaf_sdk.attacks.base import EncoderAttack, register
from genaf_sdk.attacks.layers import activations, layer_at, layers_of
from genaf_sdk.attacks.overfire import climb, feature_change, mid_grey
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class GDUAP(EncoderAttack):
    """Maximises ``sum_l log ||relu(h_l(.))||_2`` over the layers l.

    ``data`` says on what: ``none``, d on a mid-grey image; ``range``, d on Gaussian images with the mean and deviation
    of the surrogate images' channels; ``images``, d on the surrogate images. Native budget 10 of 255.
    """

    name = "gd-uap"
    source = "Mopuri et al., Generalizable Data-free Objective for Crafting Universal Perturbations, TPAMI 2018"

    data: Literal["none", "range", "images"] = "images"
    layer: str = ""
    """One layer to over-fire; empty takes all of them."""
    steps: int = 1000
    batch_size: int = 32

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb, and keep the candidate that changes the features of substitute images most."""
        layers = [layer_at(encoder, surrogate, 0, self.layer)] if self.layer else layers_of(encoder, surrogate)
        batches = image_batches(surrogate, self.batch_size, generator)
        deviation, mean = torch.std_mean(surrogate, dim=(0, 2, 3), keepdim=True)

        def gaussian(count: int) -> Tensor:
            noise = torch.randn(count, *surrogate.shape[1:], generator=generator).to(surrogate)
            return (mean + deviation * noise).clamp(0, 1)

        def objective(delta: Tensor) -> Tensor:
            if self.data == "none":
                seen = mid_grey(encoder, surrogate) + delta
            else:
                seen = shown(next(batches) if self.data == "images" else gaussian(self.batch_size), delta)
            return product_of_norms(activations(encoder, layers, seen))

        fitness = feature_change(encoder, surrogate[:256] if self.data == "images" else gaussian(64))
        delta = climb(objective, fitness, surrogate, self.budget, self.steps, generator)
        return Perturbation(delta, self.budget, details={"layer": self.layer or f"all {len(layers)}"})


def product_of_norms(outputs: list[Tensor]) -> Tensor:
    """Return ``sum_l log ||relu(h_l)||_2``, the norm taken over each image and averaged."""
    norms = [F.relu(output).flatten(1).norm(dim=1) for output in outputs]
    return torch.stack([(norm + 1e-12).log().mean() for norm in norms]).sum()
