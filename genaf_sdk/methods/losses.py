"""Losses that several methods share: one value for each row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of every row, (n,), from logits (n, K) and classes (n,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def divergence(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Return KL(p_clean || p_adversarial) of every row, (n,), from logits (n, K)."""
    return F.kl_div(adversarial.log_softmax(dim=1), clean.log_softmax(dim=1), reduction="none", log_target=True).sum(
        dim=1
    )
