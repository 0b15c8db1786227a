"""Sign ascent that looks at held-out images on its way: keeps the best, and ends when they no longer fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.targets import Success

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from genaf_sdk.inputs.threat import Threat

FIRST_LOOKS, LAST_LOOKS = 4, 2  # that every run has, and within which the steps fall to zero once nothing is gained
LITTLE = 0.05  # of the distance, gained in two looks


@dataclass(frozen=True)
class Climb:
    """One run: its best perturbation, how that does on the held-out images, and what every look at them showed."""

    values: Tensor
    success: Success
    curve: tuple[Success, ...]

    @property
    def converged(self) -> bool:
        """Whether the last third of the looks was no better than the middle third by more than a standard error."""
        third = len(self.curve) // 3
        if third < 1:
            return False
        middle, last = max(self.curve[third:-third]), max(self.curve[-third:])
        return last.rate - middle.rate <= last.standard_error


def climb(
    objective: Callable[[Tensor], Tensor],
    judge: Callable[[Tensor], Success],
    start: Tensor,
    threat: Threat,
    *,
    step_size: float,
    steps: int,
    looks: int = 10,
    momentum: float = 0.0,
    known: Success | None = None,
) -> Climb:
    """Climb by sign steps that fall linearly to zero, sooner once held-out images show that nothing is gained.

    Args:
        objective: Maps a perturbation to the scalar to climb, on images that it draws itself.
        judge: Maps a perturbation to its success on images that ``objective`` does not see.
        start: Where to begin, (C, H, W), within the threat.
        threat: What the perturbation keeps to.
        step_size: Length of the first step, in pixel units.
        steps: At most.
        looks: How often ``judge`` is asked, spread evenly. From the fourth on, two that bring next to nothing end the
            run within two more.
        momentum: Weight of earlier gradients, each of L1 norm 1.
        known: Success of ``start``; where it is given, the run returns nothing weaker.

    Returns:
        The best that a look has seen.
    """
    values, velocity = start, torch.zeros_like(start)
    best, curve = start, [] if known is None else [known]
    advance, progress, every, seen = 1 / steps, 0.0, math.ceil(steps / looks), 0
    for step in range(1, steps + 1):
        variable = values.detach().requires_grad_()
        gradient = gradient_of(objective(variable), variable)
        velocity = momentum * velocity + gradient / gradient.abs().sum().clamp(min=1e-30)
        values = threat.ascend(values.detach(), velocity, step_size * max(1 - progress, 0.0))
        progress += advance
        finished = step == steps or progress > 1 - advance / 2
        if step % every and not finished:
            continue
        success, seen = judge(values), seen + 1
        if not curve or success > max(curve):
            best = values
        curve.append(success)
        if finished:
            break
        if seen >= FIRST_LOOKS and settled(curve):
            advance = max(advance, (1 - progress) / (LAST_LOOKS * every))
    return Climb(best, max(curve), tuple(curve))


def settled(curve: Sequence[Success]) -> bool:
    """Return whether the last two looks have brought less than a standard error, and hardly moved anything further."""
    if len(curve) < 3:
        return False
    before, last, moved = max(curve[:-2]), max(curve[-2:]), max(one.distance for one in curve[:-2])
    farther = max(one.distance for one in curve[-2:]) - moved
    return last.rate - before.rate < max(before, last).standard_error and farther <= LITTLE * abs(moved)
