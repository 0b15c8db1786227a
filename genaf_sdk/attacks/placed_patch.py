"""What universal patches share: try places on a grid, go on with the best, keep what does most on held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from genaf_sdk.attacks.ascent import linear_decay, sign_ascent
from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.targets import Success
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.patches import grid_places, mask_at, patch_sides
from genaf_sdk.inputs.perturbation import Details, Perturbation
from genaf_sdk.settings import Count, Epsilon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from genaf_sdk.attacks.targets import Target
    from genaf_sdk.inputs.space import InputSpace


@dataclass(frozen=True)
class Candidate:
    """A patch at a place: pixels (C, H, W), mask (1, H, W), and how it does on the held-out images."""

    values: Tensor
    mask: Tensor
    success: Success
    loss: str


@dataclass(frozen=True)
class PlacedPatch(UniversalAttack):
    """Sign ascent of the pixels of one or several rectangles, at places that the attacker chooses."""

    is_patch: ClassVar[bool] = True
    losses: ClassVar[tuple[str, ...]]
    """What is climbed; places are chosen by the first."""

    budget: Epsilon = 0.03
    """Share of the area, of all rectangles together."""
    grid: Count = 3
    """Places along each axis that are tried."""
    scout_steps: Count = 10
    """Steps at every place."""
    finalists: Count = 2
    """How many places go on, each from what is there and from a new random start."""
    steps: Count = 60
    batch_size: Count = 128
    step_size: Epsilon = 0.1
    """Length of the first step, in pixel units; it falls linearly to a tenth of that."""
    rectangles: Count = 1
    """Over how many the area is divided; each takes the best place beside those before it."""

    def passes(self, images: int) -> float:
        """Return those of scouting every place and of climbing at the best, twice and with each loss."""
        scouting = self.rectangles * self.grid**2 * self.scout_steps
        return float(min(self.batch_size, images) * (scouting + 2 * self.finalists * len(self.losses) * self.steps))

    def strongest(self, model: nn.Module, target: Target, generator: torch.Generator) -> Perturbation:
        """Return the best patch that was found."""
        space, like = input_space(model, target.images), target.images[0]
        image = (like.shape[-2], like.shape[-1])
        sides = patch_sides(*image, self.budget / self.rectangles)
        places = [mask_at(image, sides, place).to(like) for place in grid_places(image, sides, self.grid)]
        begin, covered = self.threat.start(like, generator), torch.zeros_like(places[0])
        ranked: list[Candidate] = []
        for _ in range(self.rectangles):
            free = [covered + mask for mask in places if not bool((covered * mask).any())]
            if not free:
                raise AttackError(
                    f"{self.name!r} finds no place for {self.rectangles} rectangles of {sides[0]} x {sides[1]} pixels.",
                    expected="rectangles that do not overlap",
                    remedy="raise grid or lower rectangles",
                )
            ranked = self._candidates(
                target, space, [(begin, mask) for mask in free], self.losses[:1], self.scout_steps, generator
            )
            begin, covered = ranked[0].values, ranked[0].mask
        starts = [
            (values, found.mask)
            for found in ranked[: self.finalists]
            for values in (found.values, self.threat.start(like, generator))
        ]
        ranked += self._candidates(target, space, starts, self.losses, self.steps, generator)
        best = max(ranked, key=lambda found: found.success)
        top, left = torch.nonzero(best.mask[0])[0].tolist()
        details: Details = {
            "loss": best.loss,
            "top": top,
            "left": left,
            "rows": sides[0],
            "columns": sides[1],
            "held_out_rate": round(best.success.rate, 4),
        }
        return Perturbation(best.values * best.mask, self.threat, best.mask, details=details)

    def _candidates(
        self,
        target: Target,
        space: InputSpace,
        starts: Sequence[tuple[Tensor, Tensor]],
        losses: Sequence[str],
        steps: int,
        generator: torch.Generator,
    ) -> list[Candidate]:
        """Climb every loss from every start and return what came of it, the strongest first."""
        found = []
        order = endless_batches(len(target.crafting), self.batch_size, generator)
        for begin, mask in starts:
            for loss in losses:

                def objective(values: Tensor, mask: Tensor = mask, loss: str = loss) -> Tensor:
                    indices = target.crafting[next(order).to(target.crafting.device)]
                    attacked = self.threat.apply(space, target.images[indices], values, mask)
                    return target.objective(loss, attacked, indices)

                values = sign_ascent(objective, begin, self.threat, linear_decay(self.step_size, steps))
                success = target.success(lambda images, v=values, m=mask: self.threat.apply(space, images, v, m))  # type: ignore[misc]
                found.append(Candidate(values, mask, success, loss))
        return sorted(found, key=lambda candidate: candidate.success, reverse=True)
