"""A mixture of threats to train against: a bank of universal perturbations and patches, and some sample-wise steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.engine.randomness import random_key, uniform
from genaf_sdk.errors import ConfigError
from genaf_sdk.inputs.images import image_space
from genaf_sdk.inputs.patches import paste, places_of, plain_patches, window_gains
from genaf_sdk.inputs.threat import Linf, Patch
from genaf_sdk.methods.against import ADVERSARIES, Against, budget_at
from genaf_sdk.methods.bank import Bank
from genaf_sdk.methods.steps import SignSteps, ascend, input_gradient
from genaf_sdk.settings import Count, Epsilon, Share

if TYPE_CHECKING:
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes

LIFE = 110_000
"""Images of a run after which a perturbation of eight has had about 12,000 gradients, somewhat less than a converged
attack spends."""


@ADVERSARIES.register
@dataclass(frozen=True)
class Mixture(Against):
    """Three threats, each to a share of every batch.

    One share gets sample-wise steps that start from a universal perturbation of a bank, one share a patch of the bank,
    the rest a universal perturbation of the bank as it is. The bank learns from the gradient that the training step
    computes anyway (Shafahi et al., AAAI 2020). Its patches begin in one color each, which by itself does more than
    random pixels, and lie where the image's own gradient is largest, or at random (Rao et al., ECCV 2020 workshop, let
    them walk there).
    """

    name: ClassVar[str] = "mixture"

    sample_wise: SignSteps = SignSteps(steps=2)
    sample_wise_share: Share = 0.375
    """Share of every batch that gets sample-wise steps."""
    universal_epsilon: Epsilon = 12 / 255
    """L_inf budget of the universal perturbations: somewhat more than the attacks' 10/255."""
    patch_area: Epsilon = 0.035
    """Share of the image that a patch covers."""
    patch_share: Share = 0.125
    """Share of every batch that gets a patch; what is left of it gets a universal perturbation."""
    patch_aim: Share = 0.5
    """Of the images that get a patch, how many get it at the place that promises most, for a pass forth and back each;
    the others get it at random."""
    ramp: Share = 0.9
    """Share of the training in which the budgets of perturbations rise, linearly; a patch has its area throughout."""
    bank_size: Count = 8
    """How many universal perturbations, and how many patches, are kept."""
    redraw_every: Count | None = None
    """After so many steps one perturbation of the bank starts anew, so that the bank does not go stale. None decides
    by the images that it has seen: one that starts anew before it has grown strong is no threat to train against."""

    def check(self) -> None:
        """Refuse shares of more than the whole batch, and steps with a goal of their own.

        Raises:
            ConfigError: They are.
        """
        total = self.sample_wise_share + self.patch_share
        if total > 1:
            raise ConfigError(
                f"sample_wise_share + patch_share is {total:g}.",
                expected="at most 1; the rest is universal perturbations",
            )
        if type(self.sample_wise) is not SignSteps:
            raise ConfigError(
                f"sample_wise is a {type(self.sample_wise).__name__}.",
                expected="SignSteps: labels and rising budgets are the mixture's own",
            )

    def adversary(self, key: int, processes: Processes) -> Adversary:
        """Return the adversary, whose bank ``key`` draws and ``processes`` share; it is made for the first batch."""
        return MixtureAdversary(self, key, processes)


class MixtureAdversary(Adversary):
    """Perturbs the three shares of a batch, and moves the bank by the gradient of the training step."""

    def __init__(self, settings: Mixture, key: int, processes: Processes) -> None:
        self.settings, self.key, self.processes = settings, key, processes
        self._set_banks(torch.empty(0), torch.empty(0))
        self.steps = self.images = self.images_of_step = 0
        self.budget = 1.0
        self.seen_of_step = (torch.empty(0), torch.empty(0))

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the images with the global batch's three shares perturbed: sample-wise, patch, universal."""
        if len(self.perturbations) == 0:
            self._set_banks(*self._draw(batch.inputs))
        settings, self.images_of_step = self.settings, batch.total
        sample_wise = round(settings.sample_wise_share * batch.total)
        patched = min(round(settings.patch_share * batch.total), batch.total - sample_wise)
        ends = torch.tensor([0, sample_wise, sample_wise + patched, batch.total])
        counts = torch.searchsorted(batch.rows, ends).diff().tolist()  # of this process's rows
        members = (torch.arange(batch.total) + self.steps) % settings.bank_size
        of_rows = [members[start:end].bincount(minlength=settings.bank_size) for start, end in pairwise(ends.tolist())]
        self.seen_of_step = (of_rows[0] + of_rows[2], of_rows[1])
        first, second, third = batch.inputs.split(counts)
        indices = ((batch.rows + self.steps) % settings.bank_size).to(batch.inputs.device).split(counts)
        parts = []
        if sample_wise:  # also without rows of one's own: all processes call the model equally often
            start = self.budget * self.perturbations.values.detach()[indices[0]]
            steps, labels = settings.sample_wise.within(self.budget), batch.labels[: counts[0]]
            adversarial, gradient = ascend(model, first, labels, start, steps)
            self.sample_wise_gradient.index_add_(0, indices[0], gradient)
            parts.append(adversarial)
        if patched:
            places = self._places(model, batch, slice(counts[0], counts[0] + counts[1]))
            parts.append(paste(second, self.patches.values[indices[1]], places))
        if len(third):
            parts.append(image_space(third).add(third, self.budget * self.perturbations.values[indices[2]]))
        return torch.cat(parts)

    @torch.no_grad()
    def update(self, loss_scale: float = 1.0) -> None:
        """Move every perturbation and patch one sign step up the loss; start one of each anew from time to time."""
        # The training loss is a mean over the global batch, and a process's is multiplied by their number, as
        # accelerate averages; gradients of sample-wise steps are of a sum.
        images = self.images_of_step / self.processes.count / loss_scale
        gradients = (
            self.sample_wise_gradient + images * self.perturbations.gradient,
            images * self.patches.gradient,
        )
        for bank, gradient, seen in zip(self._banks, gradients, self.seen_of_step, strict=True):
            bank.ascend(self.processes.all_reduce(gradient), seen.to(gradient.device))
        self._drop()
        before = self._redrawn()
        self.steps += 1
        self.images += self.images_of_step
        if self._redrawn() > before:
            member = self._redrawn() % self.settings.bank_size
            for bank, drawn in zip(self._banks, self._draw(self.perturbations.values), strict=True):
                bank.restart(member, drawn[member])

    def _redrawn(self) -> int:
        """Return how often a member has started anew by now: one after the other, so that each lives equally long."""
        if self.settings.redraw_every is not None:
            return self.steps // self.settings.redraw_every
        return max(0, (self.images - LIFE) // max(1, LIFE // self.settings.bank_size) + 1)

    def begin(self, done: float) -> None:
        """Set the budget of this step, as a share of what it rises to, and drop gradients of the step before."""
        self.budget = budget_at(done, self.settings.ramp)
        self._drop()

    def _drop(self) -> None:
        self.sample_wise_gradient = torch.zeros_like(self.perturbations.values, requires_grad=False)
        for bank in self._banks:
            bank.values.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return the banks, and how many steps and images they learned from.

        Perturbations (K, C, H, W) and patches (K, C, h, w), each with the running means of their gradients.
        """
        return {
            "perturbations": self.perturbations.values.detach(),
            "perturbation_directions": self.perturbations.directions,
            "patches": self.patches.values.detach(),
            "patch_directions": self.patches.directions,
            "steps": torch.tensor(self.steps),
            "images": torch.tensor(self.images),
        }

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what ``state`` returned; a bank that was not made yet is made when it is needed."""
        there = {name: value.to(device) for name, value in state.items()}
        self._set_banks(
            there["perturbations"],
            there["patches"],
            there.get("perturbation_directions"),  # none in checkpoints of earlier versions
            there.get("patch_directions"),
        )
        self.steps, self.images = int(state["steps"]), int(state["images"])

    def _set_banks(
        self,
        perturbations: Tensor,
        patches: Tensor,
        perturbation_directions: Tensor | None = None,
        patch_directions: Tensor | None = None,
    ) -> None:
        settings, epsilon = self.settings, self.settings.universal_epsilon
        self.perturbations = Bank(perturbations, Linf(epsilon), epsilon, perturbation_directions)
        self.patches = Bank(patches, Patch(settings.patch_area), 1.0, patch_directions)
        self._banks = (self.perturbations, self.patches)
        self._drop()

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
        patches = uniform(random_key(self.key, "patches", self.steps), indices, (channels, side, side))
        plain = plain_patches(len(patches), channels, side)
        patches[: len(plain)] = plain.to(patches)
        return perturbations, patches

    def _places(self, model: nn.Module, batch: Batch, rows: slice) -> Tensor:
        """Return the top left corners (n, 2) of the patches on images ``rows`` of a batch."""
        images, labels, side = batch.inputs[rows], batch.labels[rows], self.patches.values.shape[-1]
        room = [length - side + 1 for length in images.shape[2:]]
        shares = batch.uniform("patch places", (2,))[rows]
        places = (shares * shares.new_tensor(room)).long()
        if self.settings.patch_aim:
            aimed = torch.nonzero(batch.uniform("aimed patches", ())[rows] < self.settings.patch_aim).flatten()
            if len(aimed) == 0 and self.processes.count == 1:  # else all processes call the model equally often
                return places
            gradient = input_gradient(model, images[aimed], labels[aimed])
            gains = window_gains(images[aimed], gradient, (side, side)).flatten(1)
            places[aimed] = places_of(gains.argmax(dim=1), room[1])
        return places
