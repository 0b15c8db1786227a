"""What must hold before an attack starts, and the state that the model is in while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genaf_sdk.errors import AttackError
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def attack_mode(target: object) -> Iterator[None]:
    """Context: gradients enabled, a module in eval mode and its weights without gradients; as before afterwards."""
    if not isinstance(target, nn.Module):
        with torch.enable_grad():
            yield
        return
    required = [(parameter, parameter.requires_grad) for parameter in target.parameters()]
    with inference_mode_of(target), torch.enable_grad():
        try:
            target.requires_grad_(False)
            yield
        finally:
            for parameter, before in required:
                parameter.requires_grad_(before)


def check_labels(name: str, labels: Tensor | None, count: int, classes: int) -> None:
    """Refuse anything but ``count`` whole numbers below ``classes``.

    Raises:
        AttackError: The labels are missing, of another shape or type, or no classes of the model.
    """
    if labels is None or labels.shape != (count,) or labels.is_floating_point():
        given = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)} and type {labels.dtype}"
        raise AttackError(f"{name!r} was given {given}.", expected=f"whole numbers of shape ({count},)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise AttackError(
            f"{name!r} was given the label {low if low < 0 else high}, the model has {classes} classes.",
            expected=f"labels from 0 to {classes - 1}",
        )


def check_outputs(name: str, target: Callable[[Tensor], Tensor], pixels: Tensor, *, needs_gradient: bool) -> int:
    """Run two images, before minutes are spent on all, and return the width of the output.

    Raises:
        AttackError: The model gives NaN, or no gradient where the attack needs one.
    """
    with attack_mode(target), torch.set_grad_enabled(needs_gradient):
        output = target(pixels[:2].detach().requires_grad_(needs_gradient))
    if needs_gradient and not output.requires_grad:
        raise AttackError(
            f"{name!r} gets no gradient with respect to the input from this {type(target).__name__}.",
            expected="a differentiable module",
            remedy="use an attack that only asks for outputs, such as 'square', or replay a saved perturbation",
        )
    check_finite(name, "cannot start: the model gives", output)
    return int(output.shape[-1])


def check_finite(name: str, what: str, values: Tensor) -> None:
    """Refuse NaN and infinity.

    Raises:
        AttackError: There are some; ``what`` says where.
    """
    if not torch.isfinite(values).all():
        raise AttackError(
            f"{name!r} {what} NaN or infinity.",
            expected="finite outputs and gradients",
            remedy="check the model's weights and its precision",
        )


def check_result(name: str, values: Tensor, shape: torch.Size) -> None:
    """Refuse what an attack gave if it is NaN, infinite or of another shape.

    Raises:
        AttackError: It is.
    """
    check_finite(name, "ended in", values)
    if values.shape != shape:
        raise AttackError(f"{name!r} ended in values of shape {tuple(values.shape)}.", expected=f"{tuple(shape)}")
