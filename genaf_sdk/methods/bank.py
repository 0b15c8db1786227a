"""Universal perturbations that are crafted while a model trains, by the gradients of the training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from genaf_sdk.inputs.threat import Threat

MEMORY = 200
"""Images that the running mean of a member's gradients goes back."""
STEP, LONGEST_STEP = 0.01, 0.1
"""Length of a step: as a share of the budget for each image that a member has seen, and at most."""


class Bank:
    """K perturbations of one threat. Each climbs by the signs of a running mean of its gradients.

    A member sees one to twenty images a step, whose gradient is little more than noise: from a single one it would not
    climb at all. So mean and step are counted in images, whatever the batch. Gradients are added as they are: of equal
    length, as in momentum iterative FGSM (Dong et al., CVPR 2018), those of images that resist would count as much as
    those of images that give way.

    Args:
        values: The members, (K, *shape).
        threat: What they have to stay within.
        budget: Its size in units of the inputs, in which steps are measured.
        directions: The running means, of the same shape; by default none yet.
    """

    def __init__(self, values: Tensor, threat: Threat, budget: float, directions: Tensor | None = None) -> None:
        self.values = values.requires_grad_()
        self.threat, self.budget = threat, budget
        self.directions = torch.zeros_like(values, requires_grad=False) if directions is None else directions

    def __len__(self) -> int:
        return len(self.values)

    @property
    def gradient(self) -> Tensor:
        """That of the training step, (K, *shape); zero where a member had no part in it."""
        gradient = self.values.grad
        return torch.zeros_like(self.values, requires_grad=False) if gradient is None else gradient

    @torch.no_grad()
    def ascend(self, gradient: Tensor, images: Tensor) -> None:
        """Move the members one step.

        Args:
            gradient: Of the sum of the losses, (K, *shape). A member whose gradient is not finite waits.
            images: How many images each has seen, (K,); none, and it waits.
        """
        column = (-1, *(1,) * (gradient.ndim - 1))
        seen = ((images > 0) & gradient.flatten(1).isfinite().all(dim=1)).reshape(column)
        images = images.to(gradient).reshape(column)
        self.directions = torch.where(seen, (-images / MEMORY).exp() * self.directions + gradient, self.directions)
        steps = self.budget * (STEP * images).clamp_max(LONGEST_STEP)
        self.values.copy_(torch.where(seen, self.threat.ascend(self.values, self.directions, steps), self.values))

    @torch.no_grad()
    def restart(self, member: int, value: Tensor) -> None:
        """Let a member start anew at ``value``."""
        self.values[member] = value
        self.directions[member] = 0
