"""PAP (L4A), uniform Gaussian sampling: lift low-layer activations on noise images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.ascent import image_batches, random_start, shown, sign_ascent
from genaf_sdk.attacks.base import EncoderAttack, register
from genaf_sdk.attacks.layers import activations, layer_at
from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class PapUgs(EncoderAttack):
    """Maximises ``mean(h_l(n + d)^2) + image_weight mean(h_l(x + d)^2)`` with Gaussian images n.

    Each n has a random mean from U(0.4, 0.6) and a random deviation from U(0.05, 0.10) in each channel: the attacker
    does not know which images the task has. Native budget 0.05 and step 2e-4; the budget here is the one of the joint
    tables.
    """

    name = "pap-ugs"
    source = "Ban and Dong, Pre-trained Adversarial Perturbations, NeurIPS 2022 (L4A-ugs)"

    layer: str = ""
    """Name of the layer; empty finds it by ``depth``."""
    depth: float = 0.25
    """Where the layer lies, 0 for the first and 1 for the last."""
    image_weight: float = 0.01
    steps: int = 500
    step_size: float = 2e-4
    batch_size: int = 64

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Ascend; a pass through the encoder ends at the layer."""
        layer = layer_at(encoder, surrogate, self.depth, self.layer)
        batches = image_batches(surrogate, self.batch_size, generator)

        def objective(delta: Tensor) -> Tensor:
            images = next(batches)
            noise = gaussian_images(images.shape, generator).to(images)
            both = shown(torch.cat([noise, images]), delta)
            (activation,) = activations(encoder, [layer], both)
            on_noise, on_images = activation.square().flatten(1).mean(dim=1).view(2, -1).mean(dim=1)
            weighted: Tensor = on_noise + self.image_weight * on_images
            return weighted

        start = random_start(surrogate, self.budget, generator)
        delta = sign_ascent(objective, start, self.budget, [self.step_size] * self.steps)
        return Perturbation(delta, self.budget, details={"layer": layer})


def gaussian_images(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return images (N, C, H, W) of Gaussian pixels, mean U(0.4, 0.6) and deviation U(0.05, 0.10) a channel."""
    mean = torch.empty(*shape[:2], 1, 1).uniform_(0.4, 0.6, generator=generator)
    deviation = torch.empty(*shape[:2], 1, 1).uniform_(0.05, 0.10, generator=generator)
    noise = torch.randn(shape, generator=generator)
    return torch.clamp(mean + deviation * noise, 0, 1)
