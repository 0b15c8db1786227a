"""FFF, fast feature fool: a perturbation from the network alone, without any image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.activation_maximization import ActivationAttack, adam_ascent, feature_distance, mid_gray
from genaf_sdk.attacks.layers import activations
from genaf_sdk.attacks.pap_ugs import gaussian_images
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.perturbation import Perturbation

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class FFF(ActivationAttack):
    """Maximizes ``sum_l log mean(relu(h_l(d)))``: how strongly d alone activates the layers l.

    No image is used but for its shape. The published networks take mean-free input, so that d alone is d on a mid-gray
    image; the normalization of a ``PixelEncoder`` says which gray that is. Native budget 10 of 255.
    """

    name = "fff"
    source = "Mopuri et al., Fast Feature Fool, BMVC 2017"

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Climb, and keep the candidate that changes the features of Gaussian images most."""
        layers = self.layers(encoder, surrogate)
        gray = mid_gray(encoder, surrogate)

        def objective(delta: Tensor) -> Tensor:
            return product_of_means(activations(encoder, layers, gray + delta))

        noise = gaussian_images(torch.Size((64, *surrogate.shape[1:])), generator).to(surrogate)
        fitness = feature_distance(encoder, noise)
        delta = adam_ascent(objective, fitness, surrogate, self.threat, self.steps, generator)
        return Perturbation(delta, self.threat, details={"layer": self.layer or f"all {len(layers)}"})


def product_of_means(outputs: list[Tensor]) -> Tensor:
    """Return ``sum_l log mean(relu(h_l))`` of activations of any shapes."""
    return torch.stack([(F.relu(output).mean() + 1e-12).log() for output in outputs]).sum()
