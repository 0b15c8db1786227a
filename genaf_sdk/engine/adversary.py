"""What a stage trains against, as the engine knows it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from genaf_sdk.engine.batches import Batch


class Adversary(ABC):
    """Perturbs the inputs of a training step, and may learn from the step's gradient.

    Gradients that it takes itself are of the inputs only: it leaves nothing in ``.grad`` of a weight. What outlives a
    step is the same on all processes.
    """

    @abstractmethod
    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return adversarial inputs for the classifier ``model``, valid ones of the batch's shape."""

    def update(self, loss_scale: float = 1.0) -> None:  # noqa: B027  # nothing to learn unless perturbations are kept
        """Called after the backward pass of a training step, of all its micro-batches if it was split.

        Args:
            loss_scale: What fp16 multiplied the loss by.
        """

    def begin(self, done: float) -> None:  # noqa: B027
        """Called where a step begins, or begins anew: nothing of one that was given up may be left.

        Args:
            done: Share of the stage's steps that are done, in [0, 1].
        """

    def state(self) -> dict[str, Tensor]:
        """Return what outlives a step; empty for sample-wise adversaries."""
        return {}

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:  # noqa: B027
        """Go on from what ``state`` returned."""
