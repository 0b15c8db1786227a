"""PAP (L4A), uniform Gaussian sampling: lift low-layer activations on noise images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.pap_base import PapBase
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import ImageSpace

if TYPE_CHECKING:
    from genaf_sdk.attacks.layer_attack import AttackedLayers


@register
@dataclass(frozen=True)
class PapUgs(PapBase):
    """Maximizes ``mean(h_l(n + d)^2) + image_weight mean(h_l(x + d)^2)`` with Gaussian images n.

    Each n has a random mean from U(0.4, 0.6) and a random deviation from U(0.05, 0.10) in each channel: the attacker
    does not know which images the task has. Native budget 0.05 and step 2e-4; the budget here is the one of the joint
    tables.
    """

    name = "pap-ugs"
    source = "Ban and Dong, Pre-trained Adversarial Perturbations, NeurIPS 2022 (L4A-ugs)"

    image_weight: float = 0.01

    def objective(self, layers: AttackedLayers, images: Tensor, delta: Tensor) -> Tensor:
        """Return the weighted sum of the mean squares on noise and on images."""
        noise = gaussian_images(images.shape, layers.generator).to(images)
        (activation,) = layers(layers.space.add(torch.cat([noise, images]), delta))
        on_noise, on_images = activation.square().flatten(1).mean(dim=1).view(2, -1).mean(dim=1)
        weighted: Tensor = on_noise + self.image_weight * on_images
        return weighted


def gaussian_images(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return images (N, C, H, W) of Gaussian pixels, mean U(0.4, 0.6) and deviation U(0.05, 0.10) a channel."""
    mean = torch.empty(*shape[:2], 1, 1).uniform_(0.4, 0.6, generator=generator)
    deviation = torch.empty(*shape[:2], 1, 1).uniform_(0.05, 0.10, generator=generator)
    noise = torch.randn(shape, generator=generator)
    return ImageSpace(tuple(shape[1:])).clip(mean + deviation * noise)
