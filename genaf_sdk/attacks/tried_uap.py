"""What both universal ascents share: short trials, a long run from the best of them, judged on held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.climbing import Climb, climb
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Details, Perturbation
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.attacks.targets import Success, Target

SHORT = 6  # a trial has a sixth of the steps


@dataclass(frozen=True)
class TriedUAP(UniversalAttack):
    """Mini-batch sign ascent whose steps fall linearly to zero, sooner once held-out images no longer fall."""

    only_outputs = True
    losses: ClassVar[tuple[str, ...]]
    """What may be climbed, the first one where there are no trials."""

    loss: str = "all"
    steps: Count = 100
    """Of the long run, at most."""
    trials: Count = 2
    """Short runs of a sixth of the steps, each from a start of its own, of which the best goes on; 1 is a long run
    alone."""
    batch_size: Count = 128
    relative_step_size: Share = 0.2
    """Length of the first step, as a share of the budget."""
    held_out: Share = 0.125
    """Share of the images that only judge, at least 128 of them and at most half; 0 judges by those crafted on."""

    def passes(self, images: int) -> float:
        """Return those of the long run and of the trials."""
        return super().passes(images) * (1 + (self.trials / SHORT if self.trials > 1 else 0))

    def strongest(
        self, model: nn.Module, target: Target, generator: torch.Generator, start: Tensor | None = None
    ) -> Perturbation:
        """Return the best perturbation of all runs, the first of which begins at ``start`` where there is one."""
        space = input_space(model, target.images)
        order = endless_batches(len(target.crafting), self.batch_size, generator)

        def judge(delta: Tensor) -> Success:
            return target.success(lambda images: space.clip(images + delta))

        def run(loss: str, begin: Tensor, steps: int, known: Success | None) -> Climb:
            def objective(delta: Tensor) -> Tensor:
                indices = target.crafting[next(order).to(target.crafting.device)]
                return target.objective(loss, space.add(target.images[indices], delta), indices)

            length = self.relative_step_size * self.budget
            return climb(
                objective, judge, begin, self.threat,
                step_size=length, steps=steps, known=known, is_enough=target.is_at_chance,
            )  # fmt: skip

        losses = self.losses if self.loss == "all" else (self.loss,)
        begin = self.threat.start(target.images[0], generator) if start is None else self.threat.project(start)
        loss, known = losses[0], None if start is None else judge(begin)
        tried: list[tuple[Climb, str]] = []
        for trial in range(self.trials if self.trials > 1 else 0):
            loss = losses[trial % len(losses)]
            tried.append((run(loss, begin, max(1, self.steps // SHORT), known), loss))
            if target.is_at_chance(tried[-1][0].success):
                break
            begin, known = self.threat.start(target.images[0], generator), None
        if tried:
            best, loss = max(tried, key=lambda each: each[0].success)
            begin, known = best.values, best.success
        if not tried or not target.is_at_chance(best.success):
            best = run(loss, begin, self.steps, known)
        details: Details = {
            "loss": loss,
            "converged": best.converged or target.is_at_chance(best.success),
            "held_out_rate": round(best.success.rate, 4),
        }
        return Perturbation(best.values, self.threat, details=details)
