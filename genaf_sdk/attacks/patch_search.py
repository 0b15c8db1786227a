"""The search for a patch of its own on every image of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.apgd import correctly_classified
from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.losses import margin_loss
from genaf_sdk.attacks.pgd import SUCCESS_MARGIN
from genaf_sdk.inputs.patches import paste, places_of, window_gains
from genaf_sdk.models.parts import in_parts

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier
    from genaf_sdk.inputs.threat import Patch

MOMENTUM = 0.9  # on gradients of L1 norm 1


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
        """Return the top left corners (N, count, 2) of the windows that promise most, no two of them close together.

        Promised is the rise of the margin, to first order.
        """
        images = self.pixels.detach().requires_grad_()
        gradient = gradient_of(margin_loss(in_parts(self.model, images), self.labels).sum(), images)
        sums = window_gains(self.pixels, gradient, self.sides)
        across = torch.arange(sums.shape[1], device=sums.device), torch.arange(sums.shape[2], device=sums.device)
        found = []
        for _ in range(count):
            place = places_of(sums.flatten(1).argmax(dim=1), sums.shape[2])
            found.append(place)
            near = [
                (line[None] - place[:, axis : axis + 1]).abs() < max(1, self.sides[axis] // 2)
                for axis, line in enumerate(across)
            ]
            sums = sums.masked_fill(near[0][:, :, None] & near[1][:, None, :], -1.0)
        return torch.stack(found, dim=1)

    def climb(
        self, rows: Tensor, patches: Tensor, places: Tensor, step_sizes: list[float], walk: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Climb the margin loss of images ``rows`` (M,) and note what misclassifies them.

        Args:
            rows: Which images.
            patches: Where to begin, (M, C, h, w).
            places: Top left corners (M, 2).
            step_sizes: Length of every step.
            walk: After so many steps a patch moves to the best of its neighbors; 0 stays.

        Returns:
            The last patches (M, C, h, w) and places (M, 2), and the largest margin (M,) that was seen on the way.
        """
        highest, velocity = patches.new_full((len(rows),), -torch.inf), torch.zeros_like(patches)
        patches, places, active = patches.clone(), places.clone(), torch.arange(len(rows), device=rows.device)
        for step, step_size in enumerate([*step_sizes, 0.0], start=1):  # the last pass only looks at the last step
            if len(active) == 0:
                break
            current = patches[active].detach().requires_grad_()
            images = paste(self.pixels[rows[active]], current, places[active])
            margins = margin_loss(in_parts(self.model, images), self.labels[rows[active]])
            highest[active] = torch.maximum(
                highest[active], self._noted(rows[active], images.detach(), margins.detach())
            )
            if step_size == 0:
                break
            gradient = gradient_of(margins.sum(), current)
            norms = gradient.flatten(1).abs().sum(dim=1).clamp(min=1e-30)
            velocity[active] = MOMENTUM * velocity[active] + gradient / norms.view(-1, 1, 1, 1)
            patches[active] = self.threat.ascend(current.detach(), velocity[active], step_size)
            active = active[margins.detach() <= SUCCESS_MARGIN]
            if walk and step % walk == 0 and len(active):
                places[active], seen = self._walked(rows[active], patches[active], places[active])
                highest[active] = torch.maximum(highest[active], seen)
        return patches, places, highest

    @torch.no_grad()
    def _walked(self, rows: Tensor, patches: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each patch does most, here or a third of its side off along one axis, and the margin there."""
        down, right = (max(1, side // 3) for side in self.sides)
        far = torch.tensor([self.pixels.shape[2] - self.sides[0], self.pixels.shape[3] - self.sides[1]])
        best, highest = places, patches.new_full((len(rows),), -torch.inf)
        for shift in ((0, 0), (-down, 0), (down, 0), (0, -right), (0, right)):
            there = torch.minimum((places + torch.tensor(shift).to(places)).clamp(min=0), far.to(places))
            images = paste(self.pixels[rows], patches, there)
            margins = self._noted(rows, images, margin_loss(in_parts(self.model, images), self.labels[rows]))
            best = torch.where((margins > highest)[:, None], there, best)
            highest = torch.maximum(highest, margins)
        return best, highest

    def _noted(self, rows: Tensor, images: Tensor, margins: Tensor) -> Tensor:
        """Keep what is better than everything before it, and return the margins."""
        better = margins > self.margins[rows]
        self.results[rows[better]], self.margins[rows[better]] = images[better], margins[better]
        return margins
