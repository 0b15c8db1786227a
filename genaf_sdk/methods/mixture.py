"""A mixture of threats to train against: a bank of universal perturbations and patches, and some sample-wise steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.engine.randomness import random_key, uniform
from genaf_sdk.errors import ConfigError
from genaf_sdk.inputs.images import image_space
from genaf_sdk.inputs.patches import paste
from genaf_sdk.inputs.threat import Linf, Patch
from genaf_sdk.methods.against import ADVERSARIES, Against
from genaf_sdk.methods.pgd import PGD, ascend
from genaf_sdk.settings import Count, Epsilon, Share

if TYPE_CHECKING:
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes

UNIVERSAL_STEP = 0.25
"""Length of a universal perturbation's step, as a share of its budget."""
PATCH_STEP = 0.1
LIFE = 110_000
"""Images of a run after which a perturbation of eight has had about 12,000 gradients, half of what a converged attack
spends."""


@ADVERSARIES.register
@dataclass(frozen=True)
class Mixture(Against):
    """Three threats, each to a share of every batch.

    One share gets sample-wise steps that start from a universal perturbation of a bank, one share a patch of the bank
    at a random place, the rest a universal perturbation of the bank as it is. The bank learns from the gradient that
    the training step computes anyway (Shafahi et al., AAAI 2020).
    """

    name: ClassVar[str] = "mixture"

    sample_wise: PGD = PGD(steps=2)
    sample_wise_share: Share = 0.375
    universal_epsilon: Epsilon = 12 / 255
    """L_inf budget of the universal perturbations: somewhat more than the attacks' 10/255."""
    patch_area: Epsilon = 0.035
    """Share of the image that a patch covers."""
    patch_share: Share = 0.125
    bank_size: Count = 8
    """How many universal perturbations, and how many patches, are kept."""
    redraw_every: Count | None = None
    """After so many steps one perturbation of the bank starts anew, so that the bank does not go stale. None gives each
    a ``LIFE`` of images first: one that starts anew before it has grown strong is no threat to train against."""

    def check(self) -> None:
        """Refuse shares of more than the whole batch.

        Raises:
            ConfigError: They are.
        """
        total = self.sample_wise_share + self.patch_share
        if total > 1:
            raise ConfigError(
                f"sample_wise_share + patch_share is {total:g}.",
                expected="at most 1; the rest is universal perturbations",
            )
        if self.sample_wise.away_from != "label":
            raise ConfigError(
                f"sample_wise.away_from is {self.sample_wise.away_from!r}.",
                expected="'label': these steps share the bank's gradient",
            )

    def adversary(self, key: int, processes: Processes) -> Adversary:
        """Return the adversary, whose bank ``key`` draws and ``processes`` share; it is made for the first batch."""
        return MixtureAdversary(self, key, processes)


class MixtureAdversary(Adversary):
    """Perturbs the three shares of a batch, and moves the bank by the gradient of the training step."""

    def __init__(self, settings: Mixture, key: int, processes: Processes) -> None:
        self.settings, self.key, self.processes = settings, key, processes
        self.perturbations = self.patches = torch.empty(0)
        self.sample_wise_gradient = torch.empty(0)
        self.steps = self.images = self.images_of_step = 0

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the images with the global batch's three shares perturbed: sample-wise, patch, universal."""
        if len(self.perturbations) == 0:
            self._make_bank(batch.inputs)
        settings, self.images_of_step = self.settings, batch.total
        sample_wise = round(settings.sample_wise_share * batch.total)
        patched = min(round(settings.patch_share * batch.total), batch.total - sample_wise)
        ends = torch.tensor([0, sample_wise, sample_wise + patched, batch.total])
        counts = torch.searchsorted(batch.rows, ends).diff().tolist()  # of this process's rows
        first, second, third = batch.inputs.split(counts)
        indices = ((batch.rows + self.steps) % settings.bank_size).to(batch.inputs.device).split(counts)
        parts = []
        if sample_wise:  # also without rows of one's own: all processes call the model equally often
            start = self.perturbations.detach()[indices[0]]
            adversarial, gradient = ascend(model, first, batch.labels[: counts[0]], start, settings.sample_wise)
            self.sample_wise_gradient.index_add_(0, indices[0], gradient)
            parts.append(adversarial)
        if len(second):
            positions = batch.uniform("patch places", (2,))[counts[0] : counts[0] + counts[1]]
            parts.append(self._paste(second, indices[1], positions))
        if len(third):
            parts.append(image_space(third).add(third, self.perturbations[indices[2]]))
        return torch.cat(parts)

    @torch.no_grad()
    def update(self) -> None:
        """Move every perturbation and patch one sign step up the loss; start one of each anew from time to time."""
        # A process's training loss is scaled by their number, as accelerate averages; the sum here undoes it.
        own = self.sample_wise_gradient + _gradient_of(self.perturbations) / self.processes.count
        epsilon = self.settings.universal_epsilon
        universal = Linf(epsilon)
        self.perturbations.copy_(
            universal.ascend(self.perturbations, self.processes.all_reduce(own), UNIVERSAL_STEP * epsilon)
        )
        patch_gradient = self.processes.all_reduce(_gradient_of(self.patches))
        self.patches.copy_(Patch(self.settings.patch_area).ascend(self.patches, patch_gradient, PATCH_STEP))
        self.reset()
        before = self._redrawn()
        self.steps += 1
        self.images += self.images_of_step
        if self._redrawn() > before:
            member = self._redrawn() % self.settings.bank_size
            for bank, drawn in zip((self.perturbations, self.patches), self._draw(self.perturbations), strict=True):
                bank[member] = drawn[member]

    def _redrawn(self) -> int:
        """Return how often a member has started anew by now: one after the other, so that each lives equally long."""
        if self.settings.redraw_every is not None:
            return self.steps // self.settings.redraw_every
        return max(0, (self.images - LIFE) // max(1, LIFE // self.settings.bank_size) + 1)

    def reset(self) -> None:
        """Drop the gradients of this step."""
        self.sample_wise_gradient = torch.zeros_like(self.perturbations, requires_grad=False)
        self.perturbations.grad = self.patches.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the bank: perturbations (K, C, H, W), patches (K, C, h, w), steps and images that it learned from."""
        return {
            "perturbations": self.perturbations.detach(),
            "patches": self.patches.detach(),
            "steps": torch.tensor(self.steps),
            "images": torch.tensor(self.images),
        }

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what ``state`` returned; a bank that was not made yet is made when it is needed."""
        self._set_bank(state["perturbations"].to(device), state["patches"].to(device))
        self.steps, self.images = int(state["steps"]), int(state["images"])

    def _make_bank(self, pixels: Tensor) -> None:
        self._set_bank(*self._draw(pixels))

    def _set_bank(self, perturbations: Tensor, patches: Tensor) -> None:
        self.perturbations, self.patches = perturbations.requires_grad_(), patches.requires_grad_()
        self.reset()

    def _draw(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return a random bank for images (N, C, H, W): perturbations (K, C, H, W) and patches (K, C, h, w)."""
        channels, height, width = like.shape[1:]
        side = max(1, round(math.sqrt(self.settings.patch_area * height * width)))
        side = min(side, height, width)
        indices = torch.arange(self.settings.bank_size, device=like.device)
        epsilon = self.settings.universal_epsilon
        perturbations = uniform(
            random_key(self.key, "perturbations", self.steps), indices, (channels, height, width), -epsilon, epsilon
        )
        return perturbations, uniform(random_key(self.key, "patches", self.steps), indices, (channels, side, side))

    def _paste(self, images: Tensor, indices: Tensor, positions: Tensor) -> Tensor:
        """Put a patch of the bank on each image, at a position given as shares (N, 2) of the room there is."""
        room = [length - self.patches.shape[-1] + 1 for length in images.shape[2:]]
        return paste(images, self.patches[indices], (positions * positions.new_tensor(room)).long())


def _gradient_of(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf, requires_grad=False) if leaf.grad is None else leaf.grad
