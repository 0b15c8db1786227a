"""What the data-free attacks FFF and GD-UAP share: Adam ascent that starts again from half when saturated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.layers import layer_at, layers_of
from genaf_sdk.inputs.images import input_space
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.settings import Count

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from genaf_sdk.inputs.threat import Threat

CHECK_EVERY = 50  # steps between two looks at the saturation
SATURATED, SETTLED = 0.5, 1e-3  # share of pixels at the budget, and how little that share still moves


@dataclass(frozen=True)
class ActivationAttack(EncoderAttack):
    """Activates one layer or all; subclasses say on which images."""

    layer: str = ""
    """One layer to activate; empty takes all of them."""
    steps: Count = 1000

    def layers(self, encoder: nn.Module, images: Tensor) -> list[str]:
        """Return the names of the layers to activate."""
        return [layer_at(encoder, images, 0, self.layer)] if self.layer else layers_of(encoder, images)

    def require(self, target: nn.Module, pixels: Tensor, classes: int) -> None:
        """Refuse an encoder that has no such layer."""
        super().require(target, pixels, classes)
        self.layers(target, pixels)


def adam_ascent(
    objective: Callable[[Tensor], Tensor],
    fitness: Callable[[Tensor], float],
    images: Tensor,
    threat: Threat,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Climb ``objective`` with Adam within a threat, halving a perturbation that no longer moves.

    Where more than half of the pixels sit at the budget and that share has settled, the perturbation is noted as a
    candidate and halved; the fittest candidate is returned, as in the publications.

    Args:
        objective: Maps a perturbation (C, H, W) to the scalar to climb.
        fitness: Maps a candidate to how much it changes the features of substitute images.
        images: Images of the shape to attack, (N, C, H, W).
        threat: What the perturbation keeps to.
        steps: How many; each is about a hundredth of the budget long (0.1 of 255 gray levels in the publications).
        generator: Draws the start.
    """
    budget = threat.size
    delta = threat.start(images[0], generator).requires_grad_()
    optimizer = torch.optim.Adam([delta], lr=budget / 100)
    candidates: list[Tensor] = []
    before = 0.0
    for step in range(1, steps + 1):
        delta.grad = -gradient_of(objective(delta), delta)
        optimizer.step()
        with torch.no_grad():
            delta.copy_(threat.project(delta))
            if step % CHECK_EVERY and step != steps:
                continue
            share = float((delta.abs() >= 0.999 * budget).float().mean())
            if step == steps or (share > SATURATED and abs(share - before) < SETTLED):
                candidates.append(delta.detach().clone())
                delta.mul_(0.5)
            before = share
    return max(candidates, key=fitness)


def feature_distance(encoder: nn.Module, images: Tensor) -> Callable[[Tensor], float]:
    """Return a function that measures how far a perturbation turns the features of ``images``: 1 - cosine, the mean."""
    space = input_space(encoder, images)
    with torch.no_grad():
        clean = encoder(images)

    @torch.no_grad()
    def measure(delta: Tensor) -> float:
        return 1 - float(F.cosine_similarity(encoder(space.add(images, delta)), clean, dim=1).mean())

    return measure


def mid_gray(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the image (1, C, H, W) that the encoder's normalization maps to zero; gray 0.5 where it has none."""
    gray = torch.full_like(images[:1], 0.5)
    if isinstance(encoder, PixelEncoder) and bool(encoder.mean.any()):
        return encoder.mean.to(gray).expand_as(gray)
    return gray
