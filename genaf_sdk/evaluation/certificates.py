"""Certificates against a patch: PatchCleanser's double masking (Xiang et al., USENIX Security 2022).

One of the masks hides the patch, wherever it lies. An answer that no pair of masks changes is therefore one that no
patch can change: the pairs with the mask that hides it leave the same pixels with the patch and without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from genaf_sdk.data.sampling import Sample, batch_size
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.masks import MaskSet
from genaf_sdk.models.modes import full_precision, inference_mode_of
from genaf_sdk.report.certificate import CertificateSection

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.evaluation.settings import CertificateConfig

UNDECIDED = -1
"""What stands for a class where none leads."""
LEAD = 1e-5
"""By which share of the largest logit a class has to lead to be certified: batches of another size round otherwise."""


@dataclass(frozen=True)
class DoubleMasking:
    """A defense around a classifier, and the proof that goes with its answers.

    The classifier has to answer every image by itself (batch norm in eval mode, which modules are put in; no averaging
    over test images), and alike when it certifies and when it serves: the same file, in the same precision.

    Args:
        masks: Every patch of up to ``masks.patch`` lies inside one of them.
        fill: What masked pixels become, one number a channel in [0, 1]: a constant, as anything computed from the image
            would let the patch speak.
    """

    masks: MaskSet
    fill: tuple[float, ...]

    def answer(self, classifier: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Return the defended answers, int64 (N,) on the CPU; -1 where no class leads.

        M one-mask predictions: where all agree, that class. Else each mask that differs from the majority is applied
        with every mask again: if all of these predictions are its own, that is the answer; if none of them is
        unanimous, the majority's is.

        Args:
            classifier: Pixels (N, C, H, W) to logits (N, K).
            images: Pixels (N, C, H, W) in [0, 1].

        Raises:
            AttackError: The images are of another shape, or the classifier gives something else than logits.
        """
        count = len(self.masks)
        rows = torch.arange(len(images)).repeat_interleave(count)
        single = self.masks.pairs[:count].repeat(len(images), 1)
        ones = self._classes(classifier, images, rows, single).view(-1, count)
        counts = (ones[:, :, None] == ones[:, None, :]).sum(dim=2)
        answers = ones.gather(1, counts.argmax(dim=1, keepdim=True)).flatten()
        apart = torch.nonzero((ones != answers[:, None]) & (ones != UNDECIDED))  # (D, 2): image, mask
        if len(apart):
            own = ones[apart[:, 0], apart[:, 1]]
            second = torch.stack([apart[:, 1].repeat_interleave(count), torch.arange(count).repeat(len(apart))], dim=1)
            twos = self._classes(classifier, images, apart[:, 0].repeat_interleave(count), second)
            unanimous = (twos.view(-1, count) == own[:, None]).all(dim=1)
            answers[apart[unanimous, 0]] = own[unanimous]
        return answers

    def certified(self, classifier: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
        """Return for which images no patch changes the defended answer from ``labels``, bool (N,) on the CPU.

        True where the predictions under all M (M + 1) / 2 pairs of masks are the label. Single masks come first, and an
        image whose prediction is wrong is not looked at again.

        Args:
            classifier: Pixels (N, C, H, W) to logits (N, K).
            images: Pixels (N, C, H, W) in [0, 1].
            labels: Classes (N,); ``answer`` gives those that are to be proven where the truth is not known.

        Raises:
            AttackError: The images are of another shape, or the classifier gives something else than logits.
        """
        labels, pairs = labels.cpu(), self.masks.pairs
        holds = labels != UNDECIDED
        done = 0
        while done < len(pairs) and bool(holds.any()):
            alive = torch.nonzero(holds).flatten()
            block = pairs[done : done + max(1, batch_size(images.shape[1:]) // len(alive))]
            found = self._classes(
                classifier, images, alive.repeat_interleave(len(block)), block.repeat(len(alive), 1), LEAD
            ).view(len(alive), -1)
            holds[alive] = (found == labels[alive, None]).all(dim=1)
            done += len(block)
        return holds

    def _classes(
        self, classifier: Callable[[Tensor], Tensor], images: Tensor, rows: Tensor, pairs: Tensor, lead: float = 0.0
    ) -> Tensor:
        """Return the classes (T,) of images ``rows`` (T,), each under its pair of masks (T, 2)."""
        if tuple(images.shape[1:]) != (len(self.fill), *self.masks.image):
            raise AttackError(
                f"Images of shape {tuple(images.shape)} are to be masked.",
                expected=f"(N, {len(self.fill)}, {self.masks.image[0]}, {self.masks.image[1]}), as the masks",
            )
        fill = torch.tensor(self.fill).view(-1, 1, 1)
        size = batch_size(images.shape[1:])
        parts = []
        for some, both in zip(rows.split(size), pairs.split(size), strict=True):
            masked = self.masks.hide(images[some.to(images.device)], both, fill)
            parts.append(classes_of(classifier, masked, lead))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


@torch.no_grad()
def classes_of(classifier: Callable[[Tensor], Tensor], images: Tensor, lead: float = 0.0) -> Tensor:
    """Return the class of each image (N, C, H, W) that leads by ``lead``, int64 (N,); modules answer in eval mode.

    Raises:
        AttackError: The classifier gives something else than logits.
    """
    if not isinstance(classifier, nn.Module):
        return leading_class(torch.as_tensor(classifier(images)), len(images), lead)
    parameter = next(classifier.parameters(), None)
    device = images.device if parameter is None else parameter.device
    with inference_mode_of(classifier), full_precision(device):
        images = images.to(device)
        return leading_class(classifier(images), len(images), lead)


def leading_class(logits: Tensor, count: int, lead: float = 0.0) -> Tensor:
    """Return the class whose logit leads, int64 (N,) on the CPU; -1 for ties, NaN and infinity.

    Args:
        logits: (N, K).
        count: How many images were put in, N.
        lead: By more than which share of the largest logit a class has to lead.

    Raises:
        AttackError: The logits are of another shape.
    """
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        raise AttackError(f"The model returns {tuple(logits.shape)} for {count} images.", expected="logits (N, K)")
    logits = logits.detach().float().cpu()
    finite = torch.isfinite(logits).all(dim=1)
    (best, second), classes = logits.topk(2, dim=1).values.unbind(1), logits.argmax(dim=1)
    leads = best - second > lead * logits.abs().amax(dim=1)
    return torch.where(finite & leads, classes, UNDECIDED)


def certify(
    classifier: Callable[[Tensor], Tensor],
    sample: Sample,
    config: CertificateConfig,
    fill: tuple[float, ...],
    on_batch: Callable[[int, int], object] = lambda done, total: None,  # noqa: ARG005
) -> CertificateSection:
    """Count on how many images the defended answer is right, and on how many no patch can make it wrong.

    Args:
        classifier: Pixels (N, C, H, W) to logits (N, K).
        sample: The images; the first ``config.samples`` of them are used.
        config: Area of the patch, number of masks and images.
        fill: What masked pixels become, one number a channel.
        on_batch: Called with how many images are done, and how many there are.

    Raises:
        AttackError: ``config`` states no area, or one of less than a pixel; or the classifier gives no logits.
    """
    if config.patch is None:
        raise AttackError("There is no area to certify.", expected="a share of the image such as patch=0.03")
    image = (sample.shape[1], sample.shape[2])
    masks = MaskSet.for_area(image, config.patch, config.masks)
    defense, chosen = DoubleMasking(masks, fill), Sample(sample.images, sample.order[: config.samples])
    counts: dict[str, int] = {"clean": 0, "answered": 0, "certified": 0}
    done = 0
    for pixels, labels in chosen.batches():
        plain = classes_of(classifier, pixels)
        counts["clean"] += int((plain == labels).sum())
        counts["answered"] += int((defense.answer(classifier, pixels) == labels).sum())
        counts["certified"] += int(defense.certified(classifier, pixels, labels).sum())
        done += len(labels)
        on_batch(done, len(chosen))
    return CertificateSection(
        area=config.patch, patch=masks.patch, image=image, masks_per_axis=config.masks, masks=len(masks),
        mask=masks.sides, fill=list(fill), n=len(chosen), **counts,
    )  # fmt: skip
