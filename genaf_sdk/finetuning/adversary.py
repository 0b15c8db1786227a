"""Adversaries that stage 1 trains against. Gradients are of the input only: no attack leaves anything in ``.grad``."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.ascent import shown
from genaf_sdk.model import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.config import AdversaryConfig


class Adversary(ABC):
    """Perturbs the images of a training step and may learn from the step's gradient.

    Args:
        config: Budgets and step sizes.
        generator: Source of all randomness, on the CPU.
        sum_over_processes: Adds a tensor up over all processes.
    """

    def __init__(
        self, config: AdversaryConfig, generator: torch.Generator, sum_over_processes: Callable[[Tensor], Tensor]
    ) -> None:
        self.config, self.generator, self.sum_over_processes = config, generator, sum_over_processes

    @abstractmethod
    def perturb(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial images (N, C, H, W) in [0, 1] for the classifier ``model``."""

    def learn(self) -> None:  # noqa: B027  # nothing to learn unless perturbations are kept
        """Called after the backward pass of the training step."""

    def state(self) -> dict[str, Tensor]:
        """Return the perturbations that outlive a step; empty for sample-wise adversaries."""
        return {}

    def _uniform(self, shape: tuple[int, ...], low: float, high: float, like: Tensor) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=self.generator).to(like)


class SampleWiseAdversary(Adversary):
    """PGD (Madry et al. 2018) with random start; the paper's stage 1."""

    def perturb(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return images perturbed by PGD within the budget."""
        budget = self.config.budget
        delta = self._uniform(tuple(pixels.shape), -budget, budget, pixels)
        goal = self.goal(model, pixels, labels)
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

    def __init__(
        self, config: AdversaryConfig, generator: torch.Generator, sum_over_processes: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(config, generator, sum_over_processes)
        self.perturbations = self.patches = torch.empty(0)
        self.perturbation_gradient = torch.empty(0)
        self.steps = 0

    def perturb(self, model: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the batch with its three shares perturbed, in the order sample-wise, patch, universal."""
        if len(self.perturbations) == 0:
            self._make_bank(pixels)
        config, count = self.config, len(pixels)
        sample_wise = round(config.sample_wise_share * count)
        patched = min(round(config.patch_share * count), count - sample_wise)
        first, second, third = pixels.split([sample_wise, patched, count - sample_wise - patched])
        chosen = (torch.arange(count) + self.steps) % config.bank_size
        self.perturbation_gradient = torch.zeros_like(self.perturbations)
        parts = []
        if len(first):
            members = chosen[:sample_wise].to(pixels.device)
            start = self.perturbations.detach()[members]
            adversarial, gradient = ascend(
                model, first, labels[:sample_wise], start, config.budget, config.step_size, config.steps
            )
            self.perturbation_gradient.index_add_(0, members, gradient)
            parts.append(adversarial)
        if len(second):
            parts.append(self._paste(second, chosen[sample_wise : sample_wise + patched]))
        if len(third):
            members = chosen[count - len(third) :].to(pixels.device)
            parts.append(shown(third, self.perturbations[members]))
        return torch.cat(parts)

    @torch.no_grad()
    def learn(self) -> None:
        """Move every perturbation and patch one sign step up the loss; start one of each anew from time to time."""
        if self.perturbations.grad is not None:
            self.perturbation_gradient += self.perturbations.grad
        budget = self.config.universal_budget
        direction = self.sum_over_processes(self.perturbation_gradient).sign()
        self.perturbations.add_(direction, alpha=budget / 4).clamp_(-budget, budget)
        if self.patches.grad is not None:
            self.patches.add_(self.sum_over_processes(self.patches.grad).sign(), alpha=0.1).clamp_(0, 1)
        self.perturbations.grad = self.patches.grad = None
        self.steps += 1
        if self.steps % self.config.redraw_every == 0:
            member = self.steps // self.config.redraw_every % self.config.bank_size
            shape = tuple(self.perturbations.shape[1:])
            self.perturbations[member] = self._uniform(shape, -budget, budget, self.perturbations)
            self.patches[member] = self._uniform(tuple(self.patches.shape[1:]), 0, 1, self.patches)

    def state(self) -> dict[str, Tensor]:
        """Return the bank: perturbations (K, C, H, W) and patches (K, C, h, w)."""
        return {"perturbations": self.perturbations.detach(), "patches": self.patches.detach()}

    def _make_bank(self, pixels: Tensor) -> None:
        size, (channels, height, width) = self.config.bank_size, pixels.shape[1:]
        budget = self.config.universal_budget
        side = max(1, round(math.sqrt(self.config.patch_area * height * width)))
        side = min(side, height, width)
        self.perturbations = self._uniform((size, channels, height, width), -budget, budget, pixels).requires_grad_()
        self.patches = self._uniform((size, channels, side, side), 0, 1, pixels).requires_grad_()

    def _paste(self, pixels: Tensor, members: Tensor) -> Tensor:
        """Put a patch of the bank at a random place of each image."""
        count, _, height, width = pixels.shape
        side = self.patches.shape[-1]
        top = torch.randint(height - side + 1, (count, 1, 1), generator=self.generator)
        left = torch.randint(width - side + 1, (count, 1, 1), generator=self.generator)
        rows = (top + torch.arange(side)[None, :, None]).to(pixels.device)
        columns = (left + torch.arange(side)[None, None, :]).to(pixels.device)
        images = torch.arange(count, device=pixels.device)[:, None, None]
        patched = pixels.clone()
        patched[images, :, rows, columns] = self.patches[members.to(pixels.device)].permute(0, 2, 3, 1)
        return patched


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
