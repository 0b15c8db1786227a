"""What both universal ascents share: short runs that try where to begin, and a long one away from the truth.

A loss that pushes every image away from where it is can stay on a plateau: the images pull it back and forth.
One that pulls them all to one place leaves it (as targeted steps do in APGD-T, Croce & Hein, ICML 2020). Where there is
no plateau, as on most undefended encoders, pushing away leads further; so both are tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.climbing import Climb, climb
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.settings import Between, Count, Share

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor, nn

    from genaf_sdk.attacks.targets import FeatureTarget, LabelTarget, Success, Target

    Objective = Callable[[Tensor, Tensor], Tensor]
    """Images under attack and their indices to the scalar that is climbed."""

LEFT_THE_PLATEAU = 0.5  # share of held-out images lost after a first short run, beyond which no places are tried
SHORT = 4  # a short run has a quarter of the steps
FINALISTS = 2  # goals that get a second short run
OTHER_STARTS = 2  # short runs from other noise, where no places are tried
LOOKS = 10  # at the held-out images, in the long run
MOMENTUM = 0.9  # patches do without: with it, one for all leaves 43 instead of 39 % of GTSRB


@dataclass(frozen=True)
class TriedUAP(UniversalAttack):
    """Mini-batch sign ascent with momentum, whose steps fall to zero, sooner once held-out images no longer fall."""

    only_outputs = True

    loss: str = "cross-entropy"
    goals: Annotated[int, Between(0, 1000)] = 6
    """How many places all images are sent to, each in a short run, if one that pushes them away from the truth loses
    less than half of them: classes, or clusters of features. If it loses more, two from other noise follow. The long
    run goes on from the best of all; 0 is the long run alone, from noise."""
    steps: Count = 150
    """Of the long run, at most."""
    batch_size: Count = 64
    relative_step_size: Share = 0.2
    """Length of the first step, as a share of the budget."""
    held_out: Share = 0.125
    """Share of the images that only judge, at least 128 of them and at most half; 0 judges by those crafted on."""

    def passes(self, images: int) -> float:
        """Return those of the long run and of the short ones, if all are needed."""
        short = self.goals + 1 + FINALISTS if self.goals else 0
        return super().passes(images) * (1 + short / SHORT)

    def strongest(
        self,
        model: nn.Module,
        target: FeatureTarget | LabelTarget,
        generator: torch.Generator,
        start: Tensor | None = None,
    ) -> Perturbation:
        """Return where the long run from the best short one ends, or one from ``start`` if that is not as strong."""
        run, judge, noise = self._runner(model, target, generator)
        begin = noise() if start is None else self.threat.project(start)
        known = None if start is None else judge(begin)
        away, short = partial(target.objective, self.loss), max(1, self.steps // SHORT)
        made = run(away, noise(), short, 1) if self.goals else None
        if made is not None and made.success.rate <= LEFT_THE_PLATEAU:
            goals = [partial(target.toward, goal) for goal in target.goals(self.goals, generator)]
            sent = [(run(toward, noise(), short, 1), toward) for toward in goals]
            finalists = sorted(sent, key=lambda one: moved(one[0]), reverse=True)[:FINALISTS]
            made = max((run(toward, one.values, short, 1) for one, toward in finalists), key=moved)
        elif made is not None:
            made = max(made, *(run(away, noise(), short, 1) for _ in range(OTHER_STARTS)), key=moved)
        if made is not None:
            made = run(away, made.values, self.steps, LOOKS)
        if made is None or (known is not None and known > made.success):
            made = run(away, begin, self.steps, LOOKS, known)
        return Perturbation(made.values, self.threat, details=made.details)

    def _runner(
        self, model: nn.Module, target: Target, generator: torch.Generator
    ) -> tuple[Callable[..., Climb], Callable[[Tensor], Success], Callable[[], Tensor]]:
        """Return three functions: a run of so many steps and looks, what a perturbation does, and noise to begin at."""
        space = input_space(model, target.images)
        order = endless_batches(len(target.crafting), self.batch_size, generator)

        def judge(delta: Tensor) -> Success:
            return target.success(lambda images: space.clip(images + delta))

        def run(climbed: Objective, begin: Tensor, steps: int, looks: int, known: Success | None = None) -> Climb:
            def objective(delta: Tensor) -> Tensor:
                indices = target.crafting[next(order).to(target.crafting.device)]
                return climbed(space.add(target.images[indices], delta), indices)

            threat, length = self.threat, self.relative_step_size * self.budget
            return climb(
                objective, judge, begin, threat,
                step_size=length, steps=steps, looks=looks, known=known, momentum=MOMENTUM,
            )  # fmt: skip

        return run, judge, lambda: self.threat.start(target.images[0], generator)


def moved(made: Climb) -> float:
    """Return how far held-out images were moved: it has less noise than how many were lost."""
    return made.success.distance
