"""What both attacks with restarts share: climb until held-out images no longer fall, and keep the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.targets import Success
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Details, Perturbation
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from genaf_sdk.attacks.targets import Target
    from genaf_sdk.inputs.space import InputSpace

LAST_EPOCHS = 2  # in which the step size falls to zero once nothing is gained any more
MOMENTUM = 0.9  # of every second restart, on gradients of L1 norm 1


@dataclass(frozen=True)
class Trial:
    """One restart: its best perturbation on the held-out images, and how it came about."""

    delta: Tensor
    success: Success
    loss: str
    epochs: int
    converged: bool


@dataclass(frozen=True)
class RestartedUAP(UniversalAttack):
    """Mini-batch sign ascent whose steps fall linearly to zero; restarts take one loss after the other."""

    losses: ClassVar[tuple[str, ...]]
    """What is climbed; a restart takes the next one."""

    epochs: Count = 12
    """At most; once, after half of them, two have brought less than a standard error on the held-out images, the step
    size falls to zero within two more."""
    batch_size: Count = 128
    restarts: Count = 3
    relative_step_size: Share = 0.2
    """Length of the first step, as a share of the budget."""

    def strongest(
        self, model: nn.Module, target: Target, generator: torch.Generator, start: Tensor | None = None
    ) -> Perturbation:
        """Return the best perturbation of all restarts, the first of which begins at ``start`` where there is one."""
        space = input_space(model, target.images)
        trials = []
        for restart in range(self.restarts):
            begin = self.threat.start(target.images[0], generator) if start is None or restart else start
            loss = self.losses[restart % len(self.losses)]
            trials.append(
                self._climb(target, space, loss, self.threat.project(begin), restart % 2 * MOMENTUM, generator)
            )
        best = max(trials, key=lambda trial: trial.success)
        details: Details = {
            "loss": best.loss,
            "epochs_run": best.epochs,
            "converged": best.converged,
            "held_out_rate": round(best.success.rate, 4),
        }
        return Perturbation(best.delta, self.threat, details=details)

    def _climb(
        self, target: Target, space: InputSpace, loss: str, delta: Tensor, momentum: float, generator: torch.Generator
    ) -> Trial:
        order = endless_batches(len(target.crafting), self.batch_size, generator)
        batches = max(1, len(target.crafting) // self.batch_size)
        first, advance, progress = self.relative_step_size * self.budget, 1 / (self.epochs * batches), 0.0
        velocity = torch.zeros_like(delta)
        best = delta
        curve = [target.success(lambda images: space.clip(images + delta))]
        for step in range(self.epochs * batches):
            indices = target.crafting[next(order).to(target.crafting.device)]
            delta = delta.detach().requires_grad_()
            attacked = space.add(target.images[indices], delta)
            gradient = gradient_of(target.objective(loss, attacked, indices), delta)
            velocity = momentum * velocity + gradient / gradient.abs().sum().clamp(min=1e-30)
            delta = self.threat.ascend(delta.detach(), velocity, first * max(1 - progress, 0.0))
            progress += advance
            if (step + 1) % batches:
                continue
            success = target.success(lambda images, found=delta: space.clip(images + found))  # type: ignore[misc]
            best = delta if success > max(curve) else best
            curve.append(success)
            if progress > 1 - advance / 2:
                break
            if len(curve) > self.epochs // 2 and settled(curve):
                advance = max(advance, (1 - progress) / (LAST_EPOCHS * batches))
        return Trial(best, max(curve), loss, len(curve) - 1, converged(curve))


def settled(curve: Sequence[Success]) -> bool:
    """Return whether the last two epochs have brought less than a standard error."""
    if len(curve) < 3:
        return False
    return max(curve[-2:]).rate - max(curve[:-2]).rate < max(curve).standard_error


def converged(curve: Sequence[Success]) -> bool:
    """Return whether the last third of the epochs is no better than the middle third by more than a standard error."""
    third = len(curve) // 3
    if third < 1:
        return False
    middle, last = max(curve[third:-third]), max(curve[-third:])
    return last.rate - middle.rate <= last.standard_error
