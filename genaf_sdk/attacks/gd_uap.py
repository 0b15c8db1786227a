"""GD-UAP, generalizable data-free universal perturbations: activate all layers, with as much data as there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.activation_maximization import ActivationAttack, adam_ascent, feature_distance, mid_gray
from genaf_sdk.attacks.batches import image_batches
from genaf_sdk.attacks.layers import activations
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Count

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class GDUAP(ActivationAttack):
    """Maximizes ``sum_l log ||relu(h_l(.))||_2`` over the layers l.

    ``data`` says on what: ``none``, d on a mid-gray image; ``range``, d on Gaussian images with the mean and deviation
    of the surrogate images' channels; ``images``, d on the surrogate images. Native budget 10 of 255.
    """

    name = "gd-uap"
    source = "Mopuri et al., Generalizable Data-free Objective for Crafting Universal Perturbations, TPAMI 2018"

    data: Literal["none", "range", "images"] = "images"
    batch_size: Count = 32

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb, and keep the candidate that changes the features of substitute images most."""
        layers = self.layers(encoder, surrogate)
        space, batches = input_space(encoder, surrogate), image_batches(surrogate, self.batch_size, generator)
        deviation, mean = torch.std_mean(surrogate, dim=(0, 2, 3), keepdim=True)

        def gaussian(count: int) -> Tensor:
            noise = torch.randn(count, *surrogate.shape[1:], generator=generator).to(surrogate)
            return space.clip(mean + deviation * noise)

        def objective(delta: Tensor) -> Tensor:
            if self.data == "none":
                seen = mid_gray(encoder, surrogate) + delta
            else:
                seen = space.add(next(batches) if self.data == "images" else gaussian(self.batch_size), delta)
            return product_of_norms(activations(encoder, layers, seen))

        fitness = feature_distance(encoder, surrogate[:256] if self.data == "images" else gaussian(64))
        delta = adam_ascent(objective, fitness, surrogate, self.threat, self.steps, generator)
        return Perturbation(delta, self.threat, details={"layer": self.layer or f"all {len(layers)}"})


def product_of_norms(outputs: list[Tensor]) -> Tensor:
    """Return ``sum_l log ||relu(h_l)||_2``, the norm taken over each image and averaged."""
    norms = [F.relu(output).flatten(1).norm(dim=1) for output in outputs]
    return torch.stack([(norm + 1e-12).log().mean() for norm in norms]).sum()
