"""Adversaries that stage 1 trains against. Gradients are of the input only: no attack leaves anything in ``.grad``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import shown
from genaf_sdk.engine.processes import ALONE, Processes
from genaf_sdk.engine.randomness import key_of, uniform
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from genaf_sdk.config import AdversaryConfig
    from genaf_sdk.engine.batches import Batch


class Adversary(ABC):
    """Perturbs the images of a training step and may learn from the step's gradient.

    Args:
        config: Budgets and step sizes.
        key: Of the random numbers of what outlives a step; those of a step belong to its batch.
        processes: Who has the other rows of a batch. What outlives a step is the same on all of them.
    """

    def __init__(self, config: AdversaryConfig, key: int = 0, processes: Processes = ALONE) -> None:
        self.config, self.key, self.processes = config, key, processes

    @abstractmethod
    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return adversarial images (n, C, H, W) in [0, 1] of the batch's, for the classifier ``model``."""

    def learn(self) -> None:  # noqa: B027  # nothing to learn unless perturbations are kept
        """Called after the backward pass of the training step, of all its pieces if it was split."""

    def forget(self) -> None:  # noqa: B027
        """Called where a step that was begun does not count: nothing of it may be left."""

    def state(self) -> dict[str, Tensor]:
        """Return what outlives a step; empty for sample-wise adversaries."""
        return {}

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:  # noqa: B027
        """Go on from what ``state`` returned."""


class SampleWiseAdversary(Adversary):
    """PGD (Madry et al. 2018) with random start; the paper's stage 1."""

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return images perturbed by PGD within the budget."""
        budget, pixels = self.config.budget, batch.pixels
        delta = batch.uniform("start", tuple(pixels.shape[1:]), -budget, budget)
        goal = self.goal(model, pixels, batch.labels)
        adversarial, _ = ascend(model, pixels, goal, delta, budget, self.config.step_size, self.config.steps)
        return adversarial

    def goal(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002  # for subclasses
        """Return what the prediction is moved away from: classes (N,), or probabilities (N, K)."""
        return labels


class DivergenceAdversary(SampleWiseAdversary):
    """PGD away from the prediction on the clean image; of TRADES (Zhang et al. 2019).

    The cross-entropy with the clean probabilities and the divergence from them have the same gradient.
    """

    @torch.no_grad()
    def goal(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002  # labels play no part
        """Return the clean images' probabilities (N, K)."""
        with inference_mode_of(model):
            logits: Tensor = model(pixels)
        return logits.float().softmax(dim=1)


class MixedAdversary(Adversary):
    """A bank of universal perturbations and patches, and a few sample-wise steps that start from the bank.

    Universal adversarial training (Shafahi et al. 2018) gets its perturbations for nothing, from the gradient that the
    training step computes anyway, and covers downstream-agnostic attacks; the sample-wise share covers the others.
    """

    def __init__(self, config: AdversaryConfig, key: int = 0, processes: Processes = ALONE) -> None:
        super().__init__(config, key, processes)
        self.perturbations = self.patches = torch.empty(0)
        self.sample_wise_gradient = torch.empty(0)
        self.steps = 0

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the images with the global batch's three shares perturbed: sample-wise, patch, universal."""
        if len(self.perturbations) == 0:
            self._make_bank(batch.pixels)
        config, pixels = self.config, batch.pixels
        sample_wise = round(config.sample_wise_share * batch.total)
        patched = min(round(config.patch_share * batch.total), batch.total - sample_wise)
        ends = torch.tensor([0, sample_wise, sample_wise + patched, batch.total])
        counts = torch.searchsorted(batch.rows, ends).diff().tolist()  # of this process's rows
        first, second, third = pixels.split(counts)
        members = ((batch.rows + self.steps) % config.bank_size).to(pixels.device).split(counts)
        parts = []
        if sample_wise:  # also without rows of one's own: all processes call the model equally often
            start = self.perturbations.detach()[members[0]]
            adversarial, gradient = ascend(
                model, first, batch.labels[: counts[0]], start, config.budget, config.step_size, config.steps
            )
            self.sample_wise_gradient.index_add_(0, members[0], gradient)
            parts.append(adversarial)
        if len(second):
            places = batch.uniform("patch places", (2,))[counts[0] : counts[0] + counts[1]]
            parts.append(self._paste(second, members[1], places))
        if len(third):
            parts.append(shown(third, self.perturbations[members[2]]))
        return torch.cat(parts)

    @torch.no_grad()
    def learn(self) -> None:
        """Move every perturbation and patch one sign step up the loss; start one of each anew from time to time."""
        # A process's training loss is scaled by their number, as accelerate averages; the sum here undoes it.
        own = self.sample_wise_gradient + _gradient_of(self.perturbations) / self.processes.count
        budget = self.config.universal_budget
        self.perturbations.add_(self.processes.sum(own).sign(), alpha=budget / 4).clamp_(-budget, budget)
        self.patches.add_(self.processes.sum(_gradient_of(self.patches)).sign(), alpha=0.1).clamp_(0, 1)
        self.forget()
        self.steps += 1
        if self.steps % self.config.redraw_every == 0:
            member = self.steps // self.config.redraw_every % self.config.bank_size
            for bank, drawn in zip((self.perturbations, self.patches), self._draw(self.perturbations), strict=True):
                bank[member] = drawn[member]

    def forget(self) -> None:
        """Drop the gradients of this step."""
        self.sample_wise_gradient = torch.zeros_like(self.perturbations, requires_grad=False)
        self.perturbations.grad = self.patches.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the bank: perturbations (K, C, H, W), patches (K, C, h, w), and how many steps it has learned."""
        return {
            "perturbations": self.perturbations.detach(),
            "patches": self.patches.detach(),
            "steps": torch.tensor(self.steps),
        }

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what ``state`` returned; a bank that was not made yet is made when it is needed."""
        if len(state["perturbations"]):
            self._set_bank(state["perturbations"].to(device), state["patches"].to(device))
        self.steps = int(state["steps"])

    def _make_bank(self, pixels: Tensor) -> None:
        self._set_bank(*self._draw(pixels))

    def _set_bank(self, perturbations: Tensor, patches: Tensor) -> None:
        self.perturbations, self.patches = perturbations.requires_grad_(), patches.requires_grad_()
        self.forget()

    def _draw(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random bank for images (N, C, H, W): perturbations (K, C, H, W) and patches (K, C, h, w)."""
        channels, height, width = like.shape[1:]
        side = max(1, round(math.sqrt(self.config.patch_area * height * width)))
        side = min(side, height, width)
        members = torch.arange(self.config.bank_size, device=like.device)
        budget = self.config.universal_budget
        perturbations = uniform(
            key_of(self.key, "perturbations", self.steps), members, (channels, height, width), -budget, budget
        )
        return perturbations, uniform(key_of(self.key, "patches", self.steps), members, (channels, side, side))

    def _paste(self, pixels: Tensor, members: Tensor, places: Tensor) -> Tensor:
        """Put a patch of the bank on each image, at a place given as shares (N, 2) of the room there is."""
        count, _, height, width = pixels.shape
        side = self.patches.shape[-1]
        offsets = torch.arange(side, device=pixels.device)
        top, left = (places * places.new_tensor([height - side + 1, width - side + 1])).long().unbind(1)
        rows = top[:, None, None] + offsets[None, :, None]
        columns = left[:, None, None] + offsets[None, None, :]
        images = torch.arange(count, device=pixels.device)[:, None, None]
        patched = pixels.clone()
        patched[images, :, rows, columns] = self.patches[members].permute(0, 2, 3, 1)
        return patched


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf, requires_grad=False) if leaf.grad is None else leaf.grad


def ascend(
    model: nn.Module, pixels: Tensor, labels: Tensor, delta: Tensor, budget: float, step_size: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Sign-gradient ascent of the cross-entropy, in eval mode, within an L_inf ball and the pixel range.

    Args:
        model: Pixels to logits.
        pixels: Images (N, C, H, W) in [0, 1].
        labels: Classes (N,), or probabilities (N, K).
        delta: Where to start, (N, C, H, W); may lie outside the ball.
        budget: Radius of the ball, in pixel units.
        step_size: Length of a step in every pixel.
        steps: How many.

    Returns:
        The adversarial images, and the gradient at the start (both (N, C, H, W)).
    """
    first = torch.empty(0)
    with inference_mode_of(model), torch.enable_grad():
        adversarial = (pixels + delta).clamp(0, 1)
        for step in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(model(adversarial).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            first = gradient if step == 0 else first
            delta = (adversarial.detach() + step_size * gradient.sign() - pixels).clamp(-budget, budget)
            adversarial = (pixels + delta).clamp(0, 1)
    return adversarial.detach(), first


ADVERSARIES: dict[str, type[Adversary]] = {
    "pgd": SampleWiseAdversary,
    "pgd-kl": DivergenceAdversary,
    "mixed": MixedAdversary,
}
