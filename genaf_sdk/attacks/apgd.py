"""APGD (Croce and Hein, ICML 2020), the optimizer of ``apgd-ce`` and ``apgd-t``: no step size to tune."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.inputs.images import input_space

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier
    from genaf_sdk.inputs.threat import Linf

LossesOf = Callable[[Tensor, Tensor], Tensor]
"""Logits (M, K) and which of the images they belong to (M,) -> what is climbed, (M,)."""

MOMENTUM = 0.75  # alpha of the paper: weight of the new step against the last one
RHO = 0.75  # a step size is kept where more than this share of the steps raised the loss


def checkpoints(steps: int) -> list[int]:
    """Return the steps w_j after which the step size may be halved: w_j = ceil(p_j steps).

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), as long as p_j <= 1 (section 3.1).
    """
    shares = [0.0, 0.22]
    while shares[-1] <= 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({math.ceil(round(share * steps, 9)) for share in shares[1:-1]})


def climb_all(
    model: Classifier,
    pixels: Tensor,
    labels: Tensor,
    attempts: Iterable[LossesOf],
    *,
    ball: Linf,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Climb one loss after the other; an image that one of them fools is left out of the next.

    Args:
        model: Pixels to logits.
        pixels: Images (N, C, H, W) in [0, 1].
        labels: Their classes (N,).
        attempts: What to climb in each; rows are of all N images.
        ball: Where the perturbed images have to stay.
        steps: Gradient steps of an attempt.
        generator: Draws the starts.

    Returns:
        Images (N, C, H, W): as they are where the model is wrong already, else as the last attempt left them.
    """
    results, left = pixels.clone(), correctly_classified(model, pixels, labels)
    for losses_of in attempts:
        if len(left) == 0:
            break
        results[left], fooled = apgd(
            model, pixels[left], labels[left], partial(_of_rows, losses_of, left),
            ball=ball, steps=steps, generator=generator,
        )  # fmt: skip
        left = left[~fooled]
    return results


def _of_rows(losses_of: LossesOf, rows: Tensor, logits: Tensor, index: Tensor) -> Tensor:
    """Return the losses of images that are ``index`` of ``rows``."""
    return losses_of(logits, rows[index])


@torch.no_grad()
def correctly_classified(model: Classifier, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return the indices of the images that the model gets right: there is no point in attacking the others."""
    return torch.nonzero(model(pixels).argmax(dim=1) == labels).flatten()


def apgd(
    model: Classifier,
    pixels: Tensor,
    labels: Tensor,
    losses_of: LossesOf,
    *,
    ball: Linf,
    steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Climb a loss in an L_inf ball (Algorithm 1), each image with a step size of its own.

    An image is done when it is misclassified: it gains nothing from higher losses, the others are no slower for it.

    Args:
        model: Pixels to logits.
        pixels: Images (N, C, H, W) in [0, 1].
        labels: Their classes (N,).
        losses_of: What to climb.
        ball: Where the perturbed images have to stay.
        steps: Gradient steps.
        generator: Draws the start.

    Returns:
        Images (N, C, H, W): misclassified ones, or those of the highest loss; and which are misclassified, bool (N,).
    """
    space, budget = input_space(model, pixels), ball.size
    everything = torch.arange(len(pixels), device=pixels.device)
    results, fooled = pixels.clone(), torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    start = torch.empty(pixels.shape).uniform_(-1, 1, generator=generator).to(pixels)
    start = start / start.abs().amax(dim=(1, 2, 3), keepdim=True)
    images = ball.project_inputs(space, pixels + budget * start, pixels)
    losses, gradient, wrong = _evaluate(model, images, labels, losses_of, everything)
    rows = _Rows(
        index=everything,
        images=images,
        previous=images,
        gradient=gradient,
        losses=losses,
        wrong=wrong,
        best=images,
        best_loss=losses,
        best_gradient=gradient,
        loss_at_checkpoint=losses,
        step_size=torch.full((len(pixels), 1, 1, 1), 2 * budget, device=pixels.device),
        rises=torch.zeros_like(losses),
        halved=torch.ones_like(wrong),
    )
    ends, since = set(checkpoints(steps)), 0
    for step in range(1, steps + 1):
        rows = rows.without_fooled(results, fooled)
        if len(rows.index) == 0:
            return results, fooled
        originals = pixels[rows.index]
        moved = ball.project_inputs(space, rows.images + rows.step_size * rows.gradient.sign(), originals)
        if step > 1:
            inertia = (1 - MOMENTUM) * (rows.images - rows.previous)
            moved = ball.project_inputs(space, rows.images + MOMENTUM * (moved - rows.images) + inertia, originals)
        losses, gradient, rows.wrong = _evaluate(model, moved, labels, losses_of, rows.index)
        rows.rises = rows.rises + (losses > rows.losses)
        rows.previous, rows.images, rows.losses, rows.gradient = rows.images, moved, losses, gradient
        rows.note_best()
        if step in ends:
            rows.halve_steps(few=RHO * (step - since))
            since = step
    rows = rows.without_fooled(results, fooled)
    results[rows.index] = rows.best
    return results, fooled


@dataclass
class _Rows:
    """The images still attacked, one row each; images and gradients are (M, C, H, W), the rest (M,)."""

    index: Tensor
    """Which of all images the row is."""
    images: Tensor
    previous: Tensor
    gradient: Tensor
    losses: Tensor
    wrong: Tensor
    """Whether ``images`` are misclassified."""
    best: Tensor
    best_loss: Tensor
    best_gradient: Tensor
    loss_at_checkpoint: Tensor
    """The highest loss when the step size was last looked at."""
    step_size: Tensor
    """(M, 1, 1, 1), in pixel units."""
    rises: Tensor
    """Steps since then that raised the loss."""
    halved: Tensor
    """Whether the step size was halved then; at the start, yes."""

    def without_fooled(self, results: Tensor, fooled: Tensor) -> _Rows:
        """Hand misclassified images over to ``results`` and return the other rows."""
        if not bool(self.wrong.any()):
            return self
        results[self.index[self.wrong]], fooled[self.index[self.wrong]] = self.images[self.wrong], True
        return _Rows(**{field.name: getattr(self, field.name)[~self.wrong] for field in fields(self)})

    def note_best(self) -> None:
        higher = self.losses > self.best_loss
        self.best = torch.where(_wide(higher), self.images, self.best)
        self.best_gradient = torch.where(_wide(higher), self.gradient, self.best_gradient)
        self.best_loss = torch.where(higher, self.losses, self.best_loss)

    def halve_steps(self, few: float) -> None:
        """Halve the step size and go back to the best image where at most ``few`` steps rose or nothing was gained."""
        stuck = ~self.halved & (self.best_loss <= self.loss_at_checkpoint)
        self.halved = (self.rises <= few) | stuck
        self.step_size = torch.where(_wide(self.halved), self.step_size / 2, self.step_size)
        back = self.halved & ~self.wrong
        self.images = torch.where(_wide(back), self.best, self.images)
        self.gradient = torch.where(_wide(back), self.best_gradient, self.gradient)
        self.losses = torch.where(back, self.best_loss, self.losses)
        self.rises, self.loss_at_checkpoint = torch.zeros_like(self.rises), self.best_loss


def _evaluate(
    model: Classifier, images: Tensor, labels: Tensor, losses_of: LossesOf, index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    images = images.detach().requires_grad_()
    logits = model(images)
    losses = losses_of(logits, index)
    wrong = logits.detach().argmax(dim=1) != labels[index]
    return losses.detach(), gradient_of(losses.sum(), images), wrong


def _wide(flags: Tensor) -> Tensor:
    return flags[:, None, None, None]
