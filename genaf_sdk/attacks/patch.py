"""A patch for each image by itself, at the place that serves it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from genaf_sdk.attacks.ascent import linear_decay
from genaf_sdk.attacks.patch_search import PatchSearch
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.inputs.patches import grid_places, patch_sides
from genaf_sdk.inputs.threat import Patch
from genaf_sdk.settings import Count, Epsilon

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.attacks.base import Classifier
    from genaf_sdk.inputs.perturbation import Perturbation


@register
@dataclass(frozen=True)
class ImagePatch(SampleWiseAttack):
    """Climbs the margin loss over the pixels of a rectangle, at the places that the margin itself chooses.

    Places are a grid and the windows that would raise the margin most if it were linear. Each gets a few steps, the
    better half of them, image by image, a few more, until ``finalists`` are left; these walk on while they climb. An
    image that is misclassified is skipped in all that follows. The publications place the patch at random, or walk from
    one random place.
    """

    name = "patch"
    source = (
        "Karmon et al., LaVAN, ICML 2018; Rao et al., Adversarial Training against Location-Optimized Adversarial "
        "Patches, ECCV 2020 workshop"
    )
    only_outputs = True
    is_patch: ClassVar[bool] = True

    budget: Epsilon = 0.03
    """Share of the area."""
    grid: Count = 3
    """Places along each axis."""
    windows: Count = 7
    """How many windows of the largest first-order gain are tried beside the grid."""
    scout_steps: Count = 4
    """Steps at every place in every round."""
    finalists: Count = 2
    """How many places go on to the end, of each image."""
    steps: Count = 40
    step_size: Epsilon = 0.2
    """Length of the first step, in pixel units; it falls linearly to a tenth of that."""
    walk: int = 5
    """After so many steps a patch moves to the best of its four neighbors, if that is better; 0 stays."""

    def passes(self, images: int) -> float:
        """Return those of scouting every place, in rounds of which each keeps half, and of climbing at the best."""
        places = self.grid**2 + 1 + self.windows
        return float(images * (2 * places * self.scout_steps + self.finalists * self.steps))

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Scout, then climb."""
        return self._found(self._search(model, pixels, labels), generator)

    def run_from(
        self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Tensor:
        """Scout, then climb; what ``start`` shows, at its place, is one of the candidates."""
        return self._found(self._search(model, pixels, labels), generator, start)

    def _search(self, model: Classifier, pixels: Tensor, labels: Tensor) -> PatchSearch:
        sides = patch_sides(pixels.shape[2], pixels.shape[3], self.budget)
        return PatchSearch(model, pixels, labels, sides, Patch(self.budget))

    def _found(self, search: PatchSearch, generator: torch.Generator, start: Perturbation | None = None) -> Tensor:
        pixels, (rows, columns) = search.pixels, search.sides
        places = self._places(search)
        begin = torch.rand(pixels.shape[1], rows, columns, generator=generator).to(pixels)
        patches = begin.repeat(len(pixels), places.shape[1], 1, 1, 1)
        if start is not None and start.mask is not None:
            top, left = (min(int(axis[0]), n - side) for axis, n, side in zip(
                torch.nonzero(start.mask[0], as_tuple=True), pixels.shape[2:], search.sides, strict=True
            ))  # fmt: skip
            shown = start.values[:, top : top + rows, left : left + columns].to(pixels)
            places = torch.cat([torch.tensor([top, left]).to(places).expand(len(pixels), 1, 2), places], dim=1)
            patches = torch.cat([shown.expand(len(pixels), 1, *shown.shape), patches], dim=1)
        chosen = torch.arange(places.shape[1], device=pixels.device).repeat(len(pixels), 1)
        margins = pixels.new_full(places.shape[:2], -torch.inf)
        scout, rest = linear_decay(self.step_size, self.scout_steps), linear_decay(self.step_size, self.steps)
        while True:
            for column in chosen.unbind(1):
                at = search.rows, column[search.rows]
                patches[at], places[at], margins[at] = search.climb(at[0], patches[at], places[at], scout)
            if chosen.shape[1] <= self.finalists:
                break
            count = max(self.finalists, (chosen.shape[1] + 1) // 2)
            chosen = margins.topk(min(count, margins.shape[1]), dim=1).indices
        for column in chosen.unbind(1):
            at = search.rows, column[search.rows]
            search.climb(at[0], patches[at], places[at], rest, walk=self.walk)
        return search.results

    def _places(self, search: PatchSearch) -> Tensor:
        """Return the places (N, P, 2) to try on every image."""
        image = (search.pixels.shape[2], search.pixels.shape[3])
        fixed = dict.fromkeys(grid_places(image, search.sides, self.grid) + grid_places(image, search.sides, 1))
        everywhere = torch.tensor(list(fixed), device=search.pixels.device).repeat(len(search.pixels), 1, 1)
        return torch.cat([everywhere, search.windows(self.windows)], dim=1)
