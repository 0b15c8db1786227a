"""Sign-gradient ascent of one universal perturbation: what most attacks here have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.base import batches_forever

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def shown(pixels: Tensor, delta: Tensor) -> Tensor:
    """Return ``clip(x + delta, 0, 1)`` whose gradient is that of ``x + delta``.

    The model sees what a camera can send. The true gradient of the clip is zero where a pixel is saturated, so a
    perturbation of black margins (scanned digits) would stay wherever its random start put it; the authors of most
    attacks do not clip and have no such problem.

    Args:
        pixels: Images (N, C, H, W) in [0, 1].
        delta: A perturbation (C, H, W), or one an image (N, C, H, W).

    Returns:
        Images (N, C, H, W) in [0, 1].
    """
    moved = pixels + delta
    return moved + (moved.clamp(0, 1) - moved).detach()


def random_start(like: Tensor, budget: float, generator: torch.Generator) -> Tensor:
    """Return a perturbation (C, H, W) drawn uniformly from the ball, for images ``like`` (N, C, H, W)."""
    return torch.empty(tuple(like.shape[1:])).uniform_(-budget, budget, generator=generator).to(like)


def image_batches(images: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled batches (B, C, H, W) without end; every image comes up once an epoch."""
    for indices in batches_forever(len(images), size, generator):
        yield images[indices.to(images.device)]


def falling(first: float, steps: int) -> list[float]:
    """Return step lengths that fall linearly from ``first`` to a tenth of it."""
    return [first * (1 - 0.9 * step / steps) for step in range(steps)]


def sign_ascent(
    objective: Callable[[Tensor], Tensor], start: Tensor, budget: float, lengths: Iterable[float]
) -> Tensor:
    """Climb ``objective`` by sign steps within an L_inf ball.

    Args:
        objective: Maps a perturbation to the scalar to climb, usually on images that it draws itself.
        start: Where to begin, (C, H, W).
        budget: Radius of the ball, in pixel units.
        lengths: Length of every step, in pixel units.

    Returns:
        The last perturbation, of the shape of ``start``.
    """
    delta = start
    for length in lengths:
        delta = delta.detach().requires_grad_()
        gradient = gradient_of(objective(delta), delta)
        delta = (delta.detach() + length * gradient.sign()).clamp(-budget, budget)
    return delta


def gradient_of(value: Tensor, variable: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return d value / d variable and touch no other gradient; ``retain_graph`` where ``value`` is not the last one."""
    (gradient,) = torch.autograd.grad(value, variable, retain_graph=retain_graph)
    return gradient
