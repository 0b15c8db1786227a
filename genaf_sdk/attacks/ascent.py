"""Sign-gradient ascent of one universal perturbation: what most attacks here have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from genaf_sdk.inputs.threat import Threat


def linear_decay(first: float, steps: int) -> list[float]:
    """Return step sizes that fall linearly from ``first`` to a tenth of it."""
    return [first * (1 - 0.9 * step / steps) for step in range(steps)]


def sign_ascent(
    objective: Callable[[Tensor], Tensor], start: Tensor, threat: Threat, step_sizes: Iterable[float]
) -> Tensor:
    """Climb ``objective`` by sign steps within a threat.

    Args:
        objective: Maps a perturbation to the scalar to climb, usually on images that it draws itself.
        start: Where to begin, (C, H, W).
        threat: What the perturbation keeps to.
        step_sizes: Length of every step, in pixel units.

    Returns:
        The last perturbation, of the shape of ``start``.
    """
    delta = start
    for step_size in step_sizes:
        delta = delta.detach().requires_grad_()
        gradient = gradient_of(objective(delta), delta)
        delta = threat.ascend(delta.detach(), gradient, step_size)
    return delta


def gradient_of(value: Tensor, variable: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return d value / d variable and touch no other gradient; ``retain_graph`` where ``value`` is not the last one."""
    (gradient,) = torch.autograd.grad(value, variable, retain_graph=retain_graph)
    return gradient
