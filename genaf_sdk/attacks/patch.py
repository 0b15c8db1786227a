"""A patch for each image by itself, at the place that serves it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_sdk.attacks.apgd_ce import correctly_classified
from genaf_sdk.attacks.ascent import gradient_of, linear_decay
from genaf_sdk.attacks.base import SampleWiseAttack
from genaf_sdk.attacks.pgd import SUCCESS_MARGIN, margin_loss
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.patches import grid_places, paste, patch_sides
from genaf_sdk.inputs.threat import Patch
from genaf_sdk.settings import Count, Epsilon

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier

MOMENTUM = 0.9  # on gradients of L1 norm 1


@register
@dataclass(frozen=True)
class ImagePatch(SampleWiseAttack):
    """Climbs the margin loss over the pixels of a rectangle: a few steps at many places, then more at the best.

    Places are a grid, the windows of the largest summed gradient, and the middle. An image that is misclassified is
    skipped in all that follows. The publications place the patch at random, or walk it pixel by pixel.
    """

    name = "patch"
    source = (
        "Karmon et al., LaVAN, ICML 2018; Rao et al., Adversarial Training against Location-Optimized Adversarial "
        "Patches, ECCV 2020 workshop"
    )
    is_patch: ClassVar[bool] = True

    budget: Epsilon = 0.03
    """Share of the area."""
    grid: Count = 4
    """Places along each axis."""
    windows: Count = 8
    """How many of the windows of the largest gradient are tried."""
    scout_steps: Count = 5
    """Steps at every place."""
    finalists: Count = 4
    """How many places go on, the most promising of each image."""
    steps: Count = 40
    step_size: Epsilon = 0.2
    """Length of the first step, in pixel units; it falls linearly to a tenth of that."""

    def passes(self, images: int) -> float:
        """Return those of scouting every place and of climbing at the best."""
        places = self.grid**2 + 1 + self.windows
        return float(images * (places * self.scout_steps + self.finalists * self.steps))

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Scout, then climb."""
        sides = patch_sides(pixels.shape[2], pixels.shape[3], self.budget)
        search = PatchSearch(model, pixels, labels, sides, Patch(self.budget))
        places = self._places(search)
        scouted = pixels.new_full((len(pixels), places.shape[1]), -torch.inf)
        begin = torch.rand(pixels.shape[1], *sides, generator=generator).to(pixels)
        patches = begin.repeat(len(pixels), places.shape[1], 1, 1, 1)
        for place in range(places.shape[1]):
            rows = search.rows
            patches[rows, place], scouted[rows, place] = search.climb(
                rows, patches[rows, place], places[rows, place], linear_decay(self.step_size, self.scout_steps)
            )
        for chosen in scouted.topk(min(self.finalists, places.shape[1]), dim=1).indices.unbind(1):
            rows = search.rows
            best = chosen[rows]
            search.climb(rows, patches[rows, best], places[rows, best], linear_decay(self.step_size, self.steps))
        return search.results

    def _places(self, search: PatchSearch) -> Tensor:
        """Return the places (N, P, 2) to try on every image."""
        image = (search.pixels.shape[2], search.pixels.shape[3])
        fixed = dict.fromkeys(grid_places(image, search.sides, self.grid) + grid_places(image, search.sides, 1))
        everywhere = torch.tensor(list(fixed), device=search.pixels.device).repeat(len(search.pixels), 1, 1)
        return torch.cat([everywhere, search.windows(self.windows)], dim=1)


class PatchSearch:
    """The images, and the best attack on each of them so far.

    Args:
        model: Pixels to logits.
        pixels: Images (N, C, H, W).
        labels: Their classes (N,).
        sides: Rows and columns of the patch.
        threat: What a patch may do.
    """

    def __init__(
        self, model: Classifier, pixels: Tensor, labels: Tensor, sides: tuple[int, int], threat: Patch
    ) -> None:
        self.model, self.pixels, self.labels, self.sides, self.threat = model, pixels, labels, sides, threat
        self.results, self.margins = pixels.clone(), pixels.new_full((len(pixels),), torch.inf)
        self.margins[correctly_classified(model, pixels, labels)] = -torch.inf

    @property
    def rows(self) -> Tensor:
        """Indices of the images that are still classified right."""
        return torch.nonzero(self.margins <= SUCCESS_MARGIN).flatten()

    def windows(self, count: int) -> Tensor:
        """Return the top left corners (N, count, 2) of the windows in which the gradient is largest."""
        images = self.pixels.detach().requires_grad_()
        saliency = (
            gradient_of(margin_loss(self.model(images), self.labels).sum(), images).abs().sum(dim=1, keepdim=True)
        )
        strides = tuple(max(1, side // 2) for side in self.sides)
        sums = F.avg_pool2d(saliency, self.sides, strides)
        best = sums.flatten(1).topk(min(count, sums[0].numel()), dim=1).indices
        rows, columns = best // sums.shape[-1] * strides[0], best % sums.shape[-1] * strides[1]
        return torch.stack([rows, columns], dim=2)

    def climb(self, rows: Tensor, patches: Tensor, places: Tensor, step_sizes: list[float]) -> tuple[Tensor, Tensor]:
        """Climb the margin loss of images ``rows`` (M,) and note what misclassifies them.

        Args:
            rows: Which images.
            patches: Where to begin, (M, C, h, w).
            places: Top left corners (M, 2).
            step_sizes: Length of every step.

        Returns:
            The last patches (M, C, h, w), and the largest margin (M,) that was seen on the way.
        """
        highest, velocity = patches.new_full((len(rows),), -torch.inf), torch.zeros_like(patches)
        patches, active = patches.clone(), torch.arange(len(rows), device=rows.device)
        for step_size in [*step_sizes, 0.0]:  # the last pass only looks at what the last step brought
            if len(active) == 0:
                break
            current = patches[active].detach().requires_grad_()
            images = paste(self.pixels[rows[active]], current, places[active])
            margins = margin_loss(self.model(images), self.labels[rows[active]])
            self._note(rows[active], images.detach(), margins.detach())
            highest[active] = torch.maximum(highest[active], margins.detach())
            if step_size == 0:
                break
            gradient = gradient_of(margins.sum(), current)
            norms = gradient.flatten(1).abs().sum(dim=1).clamp(min=1e-30)
            velocity[active] = MOMENTUM * velocity[active] + gradient / norms.view(-1, 1, 1, 1)
            patches[active] = self.threat.ascend(current.detach(), velocity[active], step_size)
            active = active[margins.detach() <= SUCCESS_MARGIN]
        return patches, highest

    def _note(self, rows: Tensor, images: Tensor, margins: Tensor) -> None:
        better = margins > self.margins[rows]
        self.results[rows[better]], self.margins[rows[better]] = images[better], margins[better]
