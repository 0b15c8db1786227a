"""Masks over a share of a batch, so that a certificate against patches is not bought with clean accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.inputs.masks import MaskSet
from genaf_sdk.methods.against import ADVERSARIES, Against
from genaf_sdk.methods.mixture import Mixture
from genaf_sdk.methods.steps import at_least_one
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.settings import Between, Count, Epsilon, Share

if TYPE_CHECKING:
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes


@ADVERSARIES.register
@dataclass(frozen=True)
class Masked(Against):
    """Another adversary, and over a share of its images two masks of those that double masking hides a patch with.

    The publication trains with two random squares of 57 % of the side (Xiang et al., PatchCleanser, USENIX Security
    2022); these are the very masks of the certificate, in random pairs, a mask and itself among them. One wrong
    prediction of all pairs costs the certificate, so that the worst pair counts: ``candidates`` (as Saha et al. 2023 do
    greedily, mask after mask).
    """

    name: ClassVar[str] = "masked"

    inner: Against | None = Mixture()
    """What perturbs the images under the masks; None leaves them clean."""
    share: Share = 0.5
    """Of the images that are masked."""
    patch: Epsilon = 0.03
    """Share of the image that the patch covers, as in the certificate."""
    masks: Annotated[int, Between(1, 16)] = 4
    """Masks along each axis, as in the certificate."""
    candidates: Count = 1
    """Of so many random pairs, an image gets that of the highest loss: as many forward passes, if more than one."""

    def adversary(self, key: int, processes: Processes) -> Adversary:
        """Return the adversary; it takes the color of its masks from the first batch that it sees.

        Args:
            key: Of the other adversary's random numbers; those of the masks belong to the batch.
            processes: Who has the other rows of a batch.
        """
        return MaskedAdversary(self, None if self.inner is None else self.inner.adversary(key, processes))


class MaskedAdversary(Adversary):
    """Hides parts of what another adversary perturbs; gradients that one learns from pass through what is left."""

    def __init__(self, settings: Masked, inner: Adversary | None) -> None:
        self.settings, self.inner = settings, inner
        self.fill = torch.empty(0)

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the images of the other adversary, a share of them under masks of the mean color."""
        if len(self.fill) == 0:
            (colors, there), _ = batch.everyone(batch.inputs.mean(dim=(2, 3)), batch.inputs.new_ones(len(batch.rows)))
            self.fill = torch.round(colors.sum(dim=0) / there.sum(), decimals=3).view(-1, 1, 1)  # of a micro-batch
        settings, inputs = self.settings, batch.inputs
        images = inputs if self.inner is None else self.inner.perturb(model, batch)
        masks = MaskSet.for_area((inputs.shape[2], inputs.shape[3]), settings.patch, settings.masks)
        hidden = torch.nonzero(batch.uniform("masked", ()) < settings.share).flatten()
        pairs = self._hardest(model, batch, images, hidden, masks)
        return images.index_copy(0, hidden, masks.hide(images[hidden], pairs, self.fill))

    def _hardest(self, model: nn.Module, batch: Batch, images: Tensor, hidden: Tensor, masks: MaskSet) -> Tensor:
        """Return a pair of masks, int64 (h, 2), for each of images ``hidden`` (h,): of those drawn, the hardest."""
        purposes = ["mask pairs", *(f"mask pairs {more}" for more in range(1, self.settings.candidates))]
        drawn = [batch.integers(purpose, (), len(masks.pairs))[hidden] for purpose in purposes]
        pairs = masks.pairs.to(images.device)[torch.stack(drawn)]
        if len(drawn) == 1:
            return pairs[0]
        images, labels, *tried = at_least_one(images[hidden], batch.labels[hidden], *pairs)
        with torch.no_grad(), inference_mode_of(model), folded_batch_norms(model, images[: len(hidden)]):
            losses = [
                F.cross_entropy(model(masks.hide(images, each, self.fill)).float(), labels, reduction="none")
                for each in tried
            ]
        hardest = torch.stack(losses).argmax(dim=0)[: len(hidden)]
        return pairs[hardest, torch.arange(len(hardest), device=hardest.device)]

    def begin(self, done: float) -> None:
        """Let the other adversary begin a step."""
        if self.inner is not None:
            self.inner.begin(done)

    def update(self, loss_scale: float = 1.0) -> None:
        """Let the other adversary learn."""
        if self.inner is not None:
            self.inner.update(loss_scale)

    def state(self) -> dict[str, Tensor]:
        """Return the other adversary's state, and the color of the masks (C, 1, 1)."""
        return {**({} if self.inner is None else self.inner.state()), "fill": self.fill}

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Go on from what ``state`` returned."""
        self.fill = state["fill"].to(device)
        if self.inner is not None:
            self.inner.load({name: value for name, value in state.items() if name != "fill"}, device)
