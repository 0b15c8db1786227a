"""Universal perturbations that are crafted while a model trains, by the gradients of the training steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from genaf_sdk.inputs.threat import Threat

MOMENTUM = 0.9


class Bank:
    """K perturbations of one threat. Each climbs by the signs of a running mean of its gradients.

    A member sees two to six images a step: the signs of a single gradient would be little more than noise. The mean is
    that of momentum iterative FGSM (Dong et al., CVPR 2018), over gradients of equal length.

    Args:
        values: The members, (K, *shape).
        threat: What they have to stay within.
        step_size: Length of a step, in units of the inputs.
        directions: The running means, of the same shape; by default none yet.
    """

    def __init__(self, values: Tensor, threat: Threat, step_size: float, directions: Tensor | None = None) -> None:
        self.values = values.requires_grad_()
        self.threat, self.step_size = threat, step_size
        self.directions = torch.zeros_like(values, requires_grad=False) if directions is None else directions

    def __len__(self) -> int:
        return len(self.values)

    @property
    def gradient(self) -> Tensor:
        """That of the training step, (K, *shape); zero where a member had no part in it."""
        gradient = self.values.grad
        return torch.zeros_like(self.values, requires_grad=False) if gradient is None else gradient

    @torch.no_grad()
    def ascend(self, gradient: Tensor) -> None:
        """Move the members one step along ``gradient`` (K, *shape); one that nobody saw, whose gradient is 0, waits."""
        lengths = gradient.abs().flatten(1).mean(dim=1).reshape(-1, *(1,) * (gradient.ndim - 1))
        seen = lengths > 0
        unit = gradient / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        self.directions = torch.where(seen, MOMENTUM * self.directions + unit, self.directions)
        self.values.copy_(
            torch.where(seen, self.threat.ascend(self.values, self.directions, self.step_size), self.values)
        )

    @torch.no_grad()
    def restart(self, member: int, value: Tensor) -> None:
        """Let a member start anew at ``value``."""
        self.values[member] = value
        self.directions[member] = 0
