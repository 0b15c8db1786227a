"""What an attacker may do to an input: the one place that knows how budgets are kept, applied and written."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from genaf_sdk.errors import AttackError

if TYPE_CHECKING:
    from genaf_sdk.inputs.space import InputSpace

ROUNDING = 1e-6
"""By how much a float32 value may exceed a budget that is a Python float."""


@dataclass(frozen=True)
class Threat(ABC):
    """A set of allowed changes. A class's ``kind`` is its spelling in files and reports.

    Args:
        size: How large they may be: an epsilon or an area, as ``text`` says; above 0 and at most 1.

    Raises:
        AttackError: The size is no such number.
    """

    kind: ClassVar[str]
    size: float

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, (int, float)) or not 0 < self.size <= 1:
            raise AttackError(
                f"The budget is {self.size!r}.",
                expected="a share of the pixel range or of the area, above 0 and at most 1, such as 8 / 255",
            )

    @abstractmethod
    def start(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return random allowed values.

        Args:
            like: Of the shape, type and device that is wanted, (*shape) or (N, *shape).
            generator: On the CPU.
        """

    @abstractmethod
    def project(self, values: Tensor) -> Tensor:
        """Return the allowed values that are nearest to ``values``, of the same shape."""

    @abstractmethod
    def ascend(self, values: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """Return ``values`` after one projected step of ``length`` up the ``gradient``; all of one shape."""

    @abstractmethod
    def apply(self, space: InputSpace, inputs: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return valid inputs (N, *shape) with the values put on every one of them.

        Args:
            space: Of the inputs.
            inputs: Valid inputs (N, *shape).
            values: A perturbation or the pixels of a patch, of the shape of an input.
            mask: Where a patch lies, of the shape of an input with one channel; None for a perturbation.
        """

    @abstractmethod
    def project_inputs(self, space: InputSpace, moved: Tensor, inputs: Tensor) -> Tensor:
        """Return the nearest valid inputs (N, *shape) that ``inputs`` may become.

        Args:
            space: Of the inputs.
            moved: Inputs under attack (N, *shape).
            inputs: The same before it (N, *shape).

        Raises:
            AttackError: There is no nearest one.
        """

    @abstractmethod
    def check(self, values: Tensor, mask: Tensor | None) -> None:
        """Refuse a perturbation that exceeds the threat.

        Args:
            values: Of the shape of an input.
            mask: (1, H, W), or None.

        Raises:
            AttackError: It does, or a mask is missing, not wanted, or holds something else than 0 and 1.
        """

    @abstractmethod
    def text(self) -> str:
        """Return the size as people write it."""

    def to_dict(self) -> dict[str, str | float]:
        """Return kind and size, which ``threat_from`` reads."""
        return {"kind": self.kind, "size": self.size}


@dataclass(frozen=True)
class Linf(Threat):
    """Every value may change by at most ``size``, a share of the pixel range."""

    kind = "linf"

    def start(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return values of the shape of ``like``, drawn uniformly from the ball by ``generator``."""
        return torch.empty(tuple(like.shape)).uniform_(-self.size, self.size, generator=generator).to(like)

    def project(self, values: Tensor) -> Tensor:
        """Return a perturbation, of any shape, brought back into the ball."""
        return values.clamp(-self.size, self.size)

    def project_inputs(self, space: InputSpace, moved: Tensor, inputs: Tensor) -> Tensor:
        """Return ``moved`` (N, *shape) brought into the ball around ``inputs`` (N, *shape), then into the ``space``.

        ``inputs + project(moved - inputs)`` is the same in exact arithmetic and rounds otherwise where pixels get dark:
        an attack keeps to one of the two forms.
        """
        return space.clip(torch.clamp(moved, inputs - self.size, inputs + self.size))

    def box(self, space: InputSpace, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and the highest values that ``inputs`` (N, *shape) may take in the ``space``."""
        return space.clip(inputs - self.size), space.clip(inputs + self.size)

    def ascend(self, values: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """Return ``values`` after a step of ``length`` along the signs of the ``gradient``, both of one shape."""
        return self.project(values + length * gradient.sign())

    def apply(
        self,
        space: InputSpace,
        inputs: Tensor,
        values: Tensor,
        mask: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return ``inputs`` (N, *shape) plus ``values`` (*shape), clipped to the ``space``; no ``mask`` has a say."""
        return space.clip(inputs + values)

    def check(self, values: Tensor, mask: Tensor | None) -> None:
        """Refuse ``values``, of any shape, beyond the ball, and a ``mask``.

        Raises:
            AttackError: There are such values, or a mask.
        """
        if mask is not None:
            raise AttackError("A perturbation under an L_inf budget has a mask.", expected="none, or the threat Patch")
        largest = float(values.abs().max())
        if not largest <= self.size + ROUNDING:
            raise AttackError(
                f"The perturbation changes values by up to {largest:g}.",
                expected=f"at most its budget of {self.size:g}",
            )

    def text(self) -> str:
        """Return the size in gray levels, ``10/255``."""
        return f"{self.size * 255:.3g}/255"


@dataclass(frozen=True)
class Patch(Threat):
    """A share ``size`` of the area may be replaced by anything; a mask (1, H, W) of zeros and ones says where."""

    kind = "patch"

    def start(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """Return pixels of the shape of ``like``, drawn uniformly from [0, 1] by ``generator``."""
        return torch.rand(tuple(like.shape), generator=generator).to(like)

    def project(self, values: Tensor) -> Tensor:
        """Return the patch's pixels, of any shape, brought into [0, 1]."""
        return values.clamp(0, 1)

    def ascend(self, values: Tensor, gradient: Tensor, length: float | Tensor) -> Tensor:
        """Return ``values`` after a step of ``length`` along the signs of the ``gradient``, both of one shape."""
        return self.project(values + length * gradient.sign())

    def apply(self, space: InputSpace, inputs: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``(1 - m) x + m p``: ``inputs`` (N, C, H, W) of ``space``, ``values`` (C, H, W), ``mask`` (1, H, W).

        Raises:
            AttackError: There is no mask.
        """
        if mask is None:
            raise _without_mask()
        del space  # of valid inputs and valid values nothing has to be clipped
        return inputs * (1 - mask) + values * mask

    def project_inputs(self, space: InputSpace, moved: Tensor, inputs: Tensor) -> Tensor:
        """Return ``moved`` clipped to the ``space`` if few enough places differ from ``inputs``; (N, C, H, W) both.

        Raises:
            AttackError: More places differ than the patch may cover: which of them to give up is the attack's to say.
        """
        changed = (moved != inputs).any(dim=1).flatten(1)
        largest = int(changed.sum(dim=1).max()) / changed.shape[1] if len(changed) else 0.0
        if largest > self.size:
            raise AttackError(f"The patch covers {largest:.2%} of an image.", expected=f"at most {self.size:.2%}")
        return space.clip(moved)

    def check(self, values: Tensor, mask: Tensor | None) -> None:
        """Refuse a ``mask`` (1, H, W) that is missing or too large, and ``values`` (C, H, W) outside [0, 1].

        Raises:
            AttackError: One of these, or a mask that holds something else than 0 and 1.
        """
        if mask is None:
            raise _without_mask()
        covered = float(mask.sum()) / mask.numel()  # exact: the budget may be k / (H W)
        if not (covered <= self.size and bool(((mask == 0) | (mask == 1)).all())):
            raise AttackError(
                f"The patch covers {covered:.2%} of the image.",
                expected=f"a mask of zeros and ones over at most {self.size:.2%}",
            )
        low, high = (float(value) for value in torch.aminmax(values))
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise AttackError(f"The patch has pixels from {low:g} to {high:g}.", expected="pixels in [0, 1]")

    def text(self) -> str:
        """Return the size as a share of the area, ``3.0% of the area``."""
        return f"{self.size:.1%} of the area"


def _without_mask() -> AttackError:
    return AttackError("A patch has no mask.", expected="a mask (1, H, W) of zeros and ones that says where it lies")


THREATS: dict[str, type[Threat]] = {threat.kind: threat for threat in (Linf, Patch)}


def threat_from(content: Any) -> Threat:
    """Read what ``Threat.to_dict`` gave.

    Raises:
        AttackError: The kind is unknown, or the size is no finite number above 0 and at most 1.
    """
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in THREATS:
        raise AttackError(f"The threat is {content!r}.", expected=f"a size, and a kind: {' or '.join(THREATS)}")
    size = content.get("size")
    if isinstance(size, float) and not math.isfinite(size):
        raise AttackError(f"The budget is {size!r}.", expected="a finite number above 0 and at most 1")
    return THREATS[kind](size)
