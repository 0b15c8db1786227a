"""Square attack: random search that only asks the model for its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from genaf_sdk.attacks.losses import margin_loss
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier


@register
@dataclass(frozen=True)
class Square(SampleWiseAttack):
    """Recolors random squares within the budget and keeps what raises the margin loss; works on any callable.

    Starts from vertical stripes; the squares shrink as the queries are used up. An image that is fooled is not queried
    again. Native budgets 0.05 (ImageNet) and 8/255 (AutoAttack, whose first share 0.8 is the default here).
    """

    name = "square"
    source = "Andriushchenko et al., Square Attack, ECCV 2020"
    only_outputs = True
    needs_gradient: ClassVar[bool] = False

    queries: Count = 5000
    """At most, for each image."""
    first_share: Share = 0.8
    """Share of the area that the first squares cover."""

    def passes(self, images: int) -> float:
        """Return a third for every query, which does not go back."""
        return images * self.queries / 3

    @torch.no_grad()
    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Search."""
        count, channels, height, width = pixels.shape
        low, high = Linf(self.budget).box(input_space(model, pixels), pixels)
        margins = margin_loss(model(pixels), labels)
        results = pixels.clone()
        stripes = self._signs((count, channels, 1, width), generator, pixels)
        for query in range(self.queries):
            rows = torch.nonzero(margins <= 0).flatten()
            if len(rows) == 0:
                break
            if query == 0:
                proposal = (pixels + self.budget * stripes).clamp(low, high)[rows]
            else:
                side = square_side(self.first_share, query / self.queries, height, width)
                colors = self._signs((len(rows), channels, 1, 1), generator, pixels)
                where = _squares(len(rows), side, (height, width), generator).to(pixels.device)
                proposal = (results[rows] + 2 * self.budget * colors * where).clamp(low[rows], high[rows])
            found = margin_loss(model(proposal), labels[rows])
            better = (found > margins[rows]) | (query == 0)
            results[rows[better]], margins[rows[better]] = proposal[better], found[better]
        return results

    @staticmethod
    def _signs(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
        return (torch.randint(2, shape, generator=generator) * 2 - 1).to(like)


def square_side(first_share: float, used: float, height: int, width: int) -> int:
    """Return the side of the next square, ``used`` being the share of the queries made (paper, section 5)."""
    halvings = sum(used > border / 10_000 for border in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
    side = round(math.sqrt(first_share / 2**halvings * height * width))
    return min(max(side, 1), height, width)


def _squares(count: int, side: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return masks (count, 1, H, W) of one square each, at random places."""
    inside = []
    for length in size:
        start = torch.randint(length - side + 1, (count, 1), generator=generator)
        place = torch.arange(length)
        inside.append((place >= start) & (place < start + side))
    rows, columns = inside
    return (rows[:, None, :, None] & columns[:, None, None, :]).float()
