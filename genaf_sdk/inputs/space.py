"""What one input is: its shape, its valid values, and how it lies in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from genaf_sdk.errors import AttackError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genaf_sdk.errors import GenafError

Module = TypeVar("Module", bound="nn.Module")


@dataclass(frozen=True)
class InputSpace(ABC):
    """The inputs of a model: everything that attacks, training and export have to know about them.

    Args:
        shape: Of one input, without the batch.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def check(self, inputs: Tensor, owner: str, error: type[GenafError] = AttackError) -> None:
        """Refuse a batch (N, *shape) that holds no such inputs.

        Args:
            inputs: The batch.
            owner: Who was given it, for the message.
            error: What is raised.

        Raises:
            GenafError: ``error``, for another shape or type, an empty batch, or values outside the valid range.
        """

    @abstractmethod
    def clip(self, inputs: Tensor) -> Tensor:
        """Return the valid inputs that are nearest to ``inputs`` (N, *shape)."""

    def add(self, inputs: Tensor, delta: Tensor) -> Tensor:
        """Return ``clip(x + delta)`` whose gradient is that of ``x + delta`` (straight-through).

        The model sees what a sensor can send. The true gradient of the clip is zero where a value is saturated, so a
        perturbation of black margins (scanned digits) would stay wherever its random start put it; the authors of most
        attacks do not clip and have no such problem.

        Args:
            inputs: Valid inputs (N, *shape).
            delta: A perturbation (*shape), or one an input (N, *shape).

        Returns:
            Valid inputs (N, *shape).
        """
        moved = inputs + delta
        return moved + (self.clip(moved) - moved).detach()

    def placed(self, module: Module) -> Module:
        """Return the module, its weights in the layout of ``arranged``."""
        return module

    def arranged(self, inputs: Tensor) -> Tensor:
        """Return a batch (N, *shape) in the memory layout that the hardware likes; the values stay."""
        return inputs
