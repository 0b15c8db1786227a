"""What universal patches share: the best third of the places goes on, those left move, then climb to the end."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from genaf_sdk.attacks.base import UniversalAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.climbing import climb
from genaf_sdk.attacks.targets import FEWEST_HELD_OUT, FIRST_JUDGES, Success
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.patches import grid_places, mask_at, patch_sides
from genaf_sdk.inputs.perturbation import Details, Perturbation
from genaf_sdk.settings import Count, Epsilon, Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from genaf_sdk.attacks.targets import Target

Place = tuple[int, int]

MOVE_STEPS = 10
"""At every neighbor."""


@dataclass(frozen=True)
class Candidate:
    """Rectangles at places, top left corners; pixels (C, H, W); how they do on the held-out images, once known."""

    values: Tensor
    places: tuple[Place, ...]
    success: Success | None = None
    converged: bool = False

    @property
    def judged(self) -> Success:
        """Its success; the least there is as long as none is known."""
        return self.success or Success(0.0, -math.inf, 1)


@dataclass(frozen=True)
class PlacedPatch(UniversalAttack):
    """Sign ascent of the pixels of one or several rectangles, at places that the attacker chooses."""

    is_patch: ClassVar[bool] = True
    only_outputs = True
    loss: ClassVar[str]
    """What is climbed."""
    most_moves: ClassVar[int] = 16
    """How often the patch at the place that is left looks around at most."""

    budget: Epsilon = 0.03
    """Share of the area, of all rectangles together."""
    patches: Literal[1, 2, 4] = 1
    """Over how many rectangles the area is divided; each takes the best place beside those before it."""
    grid: Count = 8
    """Places along each axis that are tried: with 3 % of the area, two thirds of a side apart. The best third of them
    is tried again for twice as many steps, until the finalists are left. Each moves to a neighbor as long as that is
    better."""
    finalists: Count = 1
    """Places, apart from one another, where the attack climbs to the end, each for a patch of its own."""
    scout_steps: Count = 2
    """Steps at every place in the first round."""
    steps: Count = 60
    """At a place that is left, at most."""
    batch_size: Count = 64
    """Images of a step at a place that is left; half as many before."""
    step_size: Epsilon = 0.2
    """Length of the first step, in pixel units."""
    shift: Share = 0.0
    """By how much of an image's height and width the patch may be displaced at random while it is crafted and judged:
    for one that is printed. 0 is the strongest patch that stays where it is."""

    def passes(self, images: int) -> float:
        """Return those of climbing at places and neighbors, of looks, and of the climbs at the end."""
        moves = min(10, self.most_moves)
        left, steps, judged = self.grid**2, 0, 2 * self.grid**2 * FIRST_JUDGES
        for number in itertools.count():
            steps += left * self.scout_steps * 2**number
            judged += left * min(2**number * FIRST_JUDGES, FEWEST_HELD_OUT) * (2 if number else 1)
            left = math.ceil(left / 3)
            if left <= self.finalists:
                break
        scouting = steps * min(self.batch_size / 2, images) + judged / 3  # forth alone
        moving = moves * MOVE_STEPS * min(self.batch_size / 2, images) + 10 * FEWEST_HELD_OUT / 3
        climbs = self.steps * min(self.batch_size, images)
        return self.patches * scouting + self.finalists * (self.patches * moving + climbs)

    def found(
        self, model: nn.Module, target: Target, generator: torch.Generator, start: Perturbation | None = None
    ) -> list[Perturbation]:
        """Return the patches of the finalists, the best by the held-out images first.

        One like ``start``, a patch of equal sides, is among the places.
        """
        search = _Search(self, model, target, generator)
        nowhere = Candidate(self.threat.start(target.images[0], generator), ())
        places, known = search.beside(nowhere), None if start is None else search.like(start)
        ended = []
        for one in search.chosen([*places, *([] if known is None else [known])], self.finalists):
            found = search.moved(one)
            for _ in range(1, self.patches):
                found = search.moved(search.chosen(search.beside(found))[0])
            ended.append(search.climbed(found, self.steps, looks=10, judges=None))
        return [self._patch(one, search) for one in sorted(ended, key=lambda one: one.judged, reverse=True)]

    def _patch(self, best: Candidate, search: _Search) -> Perturbation:
        mask = search.mask(best.places)
        details: Details = {
            "loss": self.loss,
            "places": " ".join(f"{top},{left}" for top, left in best.places),
            "rows": search.sides[0],
            "columns": search.sides[1],
            "converged": best.converged,
            "held_out_rate": round(best.judged.rate, 4),
        }
        return Perturbation(best.values * mask, self.threat, mask, details=details)


class _Search:
    """The places of one patch attack, and what is tried at them."""

    def __init__(self, attack: PlacedPatch, model: nn.Module, target: Target, generator: torch.Generator) -> None:
        self.attack, self.target, self.generator = attack, target, generator
        self.space = input_space(model, target.images)
        self.image = (target.images.shape[-2], target.images.shape[-1])
        self.sides = patch_sides(*self.image, attack.budget / attack.patches)
        self.grid = grid_places(self.image, self.sides, attack.grid)
        self.scouting, self.climbing = (
            endless_batches(len(target.crafting), size, generator)
            for size in (math.ceil(attack.batch_size / 2), attack.batch_size)
        )

    def mask(self, places: Sequence[Place]) -> Tensor:
        """Return the mask (1, H, W) of rectangles at ``places``."""
        mask = torch.zeros(1, *self.image)
        for place in places:
            mask = mask + mask_at(self.image, self.sides, place)
        return mask.to(self.target.images)

    def beside(self, found: Candidate) -> list[Candidate]:
        """Return one more rectangle at each place of the grid that is free.

        Raises:
            AttackError: None is.
        """
        free = [
            replace(found, places=(*found.places, place), success=None)
            for place in self.grid
            if self._apart((*found.places, place))
        ]
        if not free:
            raise AttackError(
                f"{self.attack.name!r} finds no place for {self.attack.patches} rectangles of {self.sides[0]} x "
                f"{self.sides[1]} pixels.",
                expected="rectangles that do not overlap",
                remedy="raise grid or lower patches",
            )
        return free

    def like(self, start: Perturbation) -> Candidate | None:
        """Return a patch as a candidate; None where it is no rectangle of the sides at hand."""
        if start.mask is None:
            return None
        top, left = torch.nonzero(start.mask[0])[0].tolist()
        place = (top, left)
        if not torch.equal(self.mask([place]).cpu(), start.mask.cpu()):
            return None
        values = start.values.to(self.target.images)
        return Candidate(values, (place,), self.judge(values, (place,), FEWEST_HELD_OUT))

    def chosen(self, candidates: list[Candidate], most: int = 1) -> list[Candidate]:
        """Climb at all places, go on with the best third for twice as long, and so on while ``most`` are left apart.

        Twice as many images judge then, too, up to 128. Plain rectangles compete from the second round on.
        """
        steps, judges = self.attack.scout_steps, FIRST_JUDGES
        others = [plain for one in candidates for plain in self._plain(one, judges)]
        while True:
            count = math.ceil(len(candidates) / 3)
            candidates = [*(self.climbed(one, steps, judges=judges) for one in candidates), *others]
            ranked, others = sorted(candidates, key=_moved, reverse=True), []
            candidates = ranked[:count]
            if count <= most or len(self._separate(candidates, most)) < most:
                return self._separate(ranked, most)
            steps, judges = 2 * steps, min(2 * judges, FEWEST_HELD_OUT)

    def _separate(self, ranked: list[Candidate], most: int) -> list[Candidate]:
        """Return the first candidates whose last rectangles do not overlap, at most so many."""
        separate: list[Candidate] = []
        for one in ranked:
            if len(separate) < most and self._apart([other.places[-1] for other in (*separate, one)]):
                separate.append(one)
        return separate

    def _plain(self, place: Candidate, judges: int) -> list[Candidate]:
        """Return the last rectangle in black and in white.

        No gradient leads from random pixels to the black rectangle that covers the digits of a sign.
        """
        mask = self.mask(place.places[-1:])
        shown = [place.values * (1 - mask) + color * mask for color in (0.0, 1.0)]
        return [Candidate(one, place.places, self.judge(one, place.places, judges)) for one in shown]

    def moved(self, found: Candidate) -> Candidate:
        """Move the last rectangle, with what it shows, as long as a neighbor is better; then look half as far."""
        stride = max(1, (max(self.image) - max(self.sides)) // max(1, 2 * (self.attack.grid - 1)))
        for _ in range(self.attack.most_moves):
            if stride < max(1, min(self.sides) // 8):
                break
            # The place at hand gets the steps of its neighbors, too: not what climbed longer shall win.
            tried = [self.climbed(one, MOVE_STEPS) for one in (found, *self._near(found, stride))]
            best = max(tried, key=_moved)
            if best.places == found.places:
                stride //= 2
            found = best
        return found

    def climbed(self, begin: Candidate, steps: int, looks: int = 1, judges: int | None = FEWEST_HELD_OUT) -> Candidate:
        """Return the candidate after up to ``steps`` steps, judged by so many held-out images; None means by all."""
        target, mask, (vertical, horizontal) = self.target, self.mask(begin.places), self._room(begin.places)
        order = self.scouting if looks == 1 else self.climbing

        def objective(values: Tensor) -> Tensor:
            indices = target.crafting[next(order).to(target.crafting.device)]
            by = self._drawn(*vertical), self._drawn(*horizontal)
            return target.objective(self.attack.loss, self._put(target.images[indices], values, mask, by), indices)

        n, known = len(target.held_out[:judges]), begin.success
        if looks > 1 or (known is not None and known.n != n):
            known = self.judge(begin.values, begin.places, judges)
        made = climb(
            objective, lambda values: self.judge(values, begin.places, judges), begin.values, self.attack.threat,
            step_size=self.attack.step_size, steps=steps, looks=looks, known=known,
        )  # fmt: skip
        return Candidate(made.values, begin.places, made.success, made.converged)

    def judge(self, values: Tensor, places: Sequence[Place], judges: int | None) -> Success:
        """Return how pixels (C, H, W) at ``places`` do on held-out images, the mean over the outermost shifts."""
        mask, room = self.mask(places), itertools.product(*self._room(places))

        def shifted(images: Tensor, down: int, right: int) -> Tensor:
            return self._put(images, values, mask, (down, right))

        corners = dict.fromkeys([(0, 0), *((down, right) for down, right in room)])
        found = [self.target.success(partial(shifted, down=down, right=right), judges) for down, right in corners]
        rate, distance = (sum(column) / len(found) for column in tuple(zip(*found, strict=True))[:2])
        return Success(rate, distance, found[0].n)

    def _put(self, images: Tensor, values: Tensor, mask: Tensor, by: tuple[int, int]) -> Tensor:
        shown, where = (torch.roll(part, by, dims=(-2, -1)) if any(by) else part for part in (values, mask))
        return self.attack.threat.apply(self.space, images, shown, where)

    def _near(self, found: Candidate, stride: int) -> list[Candidate]:
        """Return the candidates whose last rectangle lies ``stride`` further up, down, left or right."""
        *others, (top, left) = found.places
        near = []
        for rows, columns in ((-stride, 0), (stride, 0), (0, -stride), (0, stride)):
            place = top + rows, left + columns
            inside = all(0 <= at <= n - side for at, n, side in zip(place, self.image, self.sides, strict=True))
            if not inside or not self._apart((*others, place)):
                continue
            mask = self.mask([(top, left)])
            carried = torch.roll(found.values * mask, (rows, columns), dims=(-2, -1))
            moved = torch.roll(mask, (rows, columns), dims=(-2, -1))
            near.append(Candidate(found.values * (1 - moved) + carried, (*others, place)))
        return near

    def _apart(self, places: Sequence[Place]) -> bool:
        return bool((self.mask(places) <= 1).all())

    def _room(self, places: Sequence[Place]) -> list[tuple[int, int]]:
        """Return by how much all rectangles may be displaced along each axis, within the image."""
        room = []
        for axis, (length, side) in enumerate(zip(self.image, self.sides, strict=True)):
            reach, at = round(self.attack.shift * length), [place[axis] for place in places]
            room.append((-min(reach, min(at)), min(reach, length - side - max(at))))
        return room

    def _drawn(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.generator)) if high > low else 0


def _moved(candidate: Candidate) -> float:
    """Return how far held-out images are moved, in features or in loss.

    How many features come to lie nearest to another image misleads: on a hardened model of the digits half do under a
    patch at the top edge, which leaves 98 % right, and a third under one in the middle, which leaves 90 %.
    """
    return candidate.judged.distance
