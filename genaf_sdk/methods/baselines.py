"""Losses of the methods that Gen-AF is compared with, on features and logits of an adversarial and a clean track.

PGD-AT, universal adversarial training, ordinary fine-tuning and the linear probe need none of their own: theirs is the
cross-entropy on a single track.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from genaf_sdk.config import DualTrackConfig
    from genaf_sdk.engine.batches import Batch


def trades_loss(
    features: tuple[Tensor, Tensor],  # noqa: ARG001  # all losses of stage 1 share one signature
    logits: tuple[Tensor, Tensor],
    labels: Tensor,
    config: DualTrackConfig,
    batch: Batch | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """TRADES: ``CE(clean, y) + divergence_weight KL(p_clean || p_adversarial)`` (Zhang et al., ICML 2019, eq. 5).

    Args:
        features: Two tensors (N, D), adversarial and benign; not used.
        logits: Two tensors (N, K), adversarial and benign.
        labels: Classes (N,).
        config: The weight.
        batch: The global batch that these rows belong to, the means being over that one; None: they are all of it.

    Returns:
        The loss, and its terms by name before weighting.
    """
    (adversarial, clean), mean = logits, torch.mean if batch is None else batch.mean
    right = F.cross_entropy(clean, labels, reduction="none")
    terms = {"clean": mean(right), "divergence": mean(_divergence(clean, adversarial))}
    return terms["clean"] + config.divergence_weight * terms["divergence"], terms


def mart_loss(
    features: tuple[Tensor, Tensor],  # noqa: ARG001  # all losses of stage 1 share one signature
    logits: tuple[Tensor, Tensor],
    labels: Tensor,
    config: DualTrackConfig,
    batch: Batch | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """MART: ``BCE(adversarial, y) + divergence_weight KL(p_clean || p_adversarial) (1 - p_clean(y))``.

    The boosted cross-entropy adds ``-log(1 - max of the other classes)`` to the ordinary one; the divergence counts
    where the clean image is not classified surely (Wang et al., ICLR 2020, eq. 8 and 11).

    Args:
        features: Two tensors (N, D), adversarial and benign; not used.
        logits: Two tensors (N, K), adversarial and benign.
        labels: Classes (N,).
        config: The weight.
        batch: The global batch that these rows belong to, the means being over that one; None: they are all of it.

    Returns:
        The loss, and its terms by name before weighting.
    """
    (adversarial, clean), mean = logits, torch.mean if batch is None else batch.mean
    others = adversarial.softmax(dim=1).scatter(1, labels[:, None], 0.0).amax(dim=1)
    boosted = F.cross_entropy(adversarial, labels, reduction="none") - torch.log1p(-others.clamp(max=1 - 1e-6))
    unsure = 1 - clean.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    terms = {"adversarial": mean(boosted), "divergence": mean(_divergence(clean, adversarial) * unsure)}
    return terms["adversarial"] + config.divergence_weight * terms["divergence"], terms


def _divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return KL(p_clean || p_adversarial) of each row, (N,), from logits (N, K)."""
    return F.kl_div(adversarial.log_softmax(dim=1), clean.log_softmax(dim=1), reduction="none", log_target=True).sum(
        dim=1
    )
