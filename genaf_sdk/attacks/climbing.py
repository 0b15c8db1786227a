"""Sign ascent that looks at held-out images on its way: keeps the best, and ends when they no longer fall."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.targets import Success

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genaf_sdk.inputs.perturbation import Details
    from genaf_sdk.inputs.threat import Threat

FIRST_LOOKS, LAST_LOOKS = 5, 2  # that every run has, and within which the steps fall to zero once nothing is gained
LITTLE_RATE, LITTLE_DISTANCE = 0.01, 0.01  # gained in two looks; the distance as a share of itself


@dataclass(frozen=True)
class Climb:
    """One run: what it kept, how that does on the held-out images, and what every look at them showed."""

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

    @property
    def details(self) -> Details:
        """Return what a report says of the run."""
        return {"converged": self.converged, "held_out_rate": round(self.success.rate, 4)}


def climb(
    objective: Callable[[Tensor], Tensor],
    judge: Callable[[Tensor], Success],
    start: Tensor,
    threat: Threat,
    *,
    step_size: float,
    steps: int,
    looks: int = 10,
    known: Success | None = None,
    momentum: float = 0.0,
) -> Climb:
    """Climb by sign steps that fall linearly to zero, sooner once held-out images show that nothing is gained.

    Args:
        objective: Maps a perturbation to the scalar to climb, on images that it draws itself.
        judge: Maps a perturbation to its success on images that ``objective`` does not see.
        start: Where to begin, (C, H, W), within the threat.
        threat: What the perturbation keeps to.
        step_size: Length of the first step, in pixel units.
        steps: At most.
        looks: How often ``judge`` is asked, spread evenly. From the fifth on, two that bring next to nothing end the
            run within two more.
        known: Success of ``start``; where it is given, the run returns nothing weaker.
        momentum: Weight of the gradients before in the sum whose signs are climbed. They are added as they are: at
            equal length, images that resist would count like those that give way.

    Returns:
        What the last look saw, unless an earlier one was better by more than a standard error: what is best by less is
        best by luck, and the last steps are the shortest.
    """
    values, direction = start, torch.zeros_like(start)
    kept, highest, curve = start, known, list[Success]()
    advance, progress, every = 1 / steps, 0.0, math.ceil(steps / looks)
    for step in range(1, steps + 1):
        variable = values.detach().requires_grad_()
        gradient = gradient_of(objective(variable), variable)
        direction = momentum * direction + gradient
        values = threat.ascend(values.detach(), direction, step_size * max(1 - progress, 0.0))
        progress += advance
        finished = step == steps or progress > 1 - advance / 2
        if step % every and not finished:
            continue
        success = judge(values)
        curve.append(success)
        if highest is None or success > highest:
            kept, highest = values, success
        if finished:
            break
        if len(curve) >= FIRST_LOOKS and settled(curve):
            advance = max(advance, (1 - progress) / (LAST_LOOKS * every))
    last = curve[-1]
    if highest is None or (last.rate >= highest.rate - last.standard_error and (known is None or last >= known)):
        kept, highest = values, last
    return Climb(kept, highest, tuple(curve))


def settled(curve: Sequence[Success]) -> bool:
    """Return whether the last two looks have brought next to nothing."""
    if len(curve) < 3:
        return False
    rate, distance = (max(one[field] for one in curve[:-2]) for field in (0, 1))
    rate_now, distance_now = (max(one[field] for one in curve[-2:]) for field in (0, 1))
    return rate_now - rate <= LITTLE_RATE and distance_now - distance <= LITTLE_DISTANCE * abs(distance)
