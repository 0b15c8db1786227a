"""Losses that several attacks share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(query: Tensor, positive: Tensor, temperature: float = 0.1) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): row i of ``positive`` belongs to row i of ``query``, the others do not.

    Args:
        query: Features (N, D).
        positive: Features (N, D).
        temperature: Divides the cosine similarities.

    Returns:
        The mean over the batch, a scalar.
    """
    similarity = F.normalize(query, dim=1) @ F.normalize(positive, dim=1).T
    return F.cross_entropy(similarity / temperature, torch.arange(len(query), device=query.device))


def high_frequencies(images: Tensor, radius: float) -> Tensor:
    """Return the images (N, C, H, W) without the frequencies inside a centered disc of ``radius`` (in FFT bins)."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - height // 2
    columns = torch.arange(width, device=images.device) - width // 2
    outside = rows[:, None] ** 2 + columns[None, :] ** 2 >= radius**2
    spectrum = torch.fft.fftshift(torch.fft.fft2(images), dim=(-2, -1))
    filtered: Tensor = torch.fft.ifft2(torch.fft.ifftshift(spectrum * outside, dim=(-2, -1))).real
    return filtered


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest wrong logit minus the right one, (N, K) -> (N,): positive where the model is fooled."""
    right = logits.gather(1, labels[:, None])[:, 0]
    wrong = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
    return wrong - right
