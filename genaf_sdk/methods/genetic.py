"""Genetic regularization: adversarial features inherit the topology of the clean ones (paper, section on stage 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.engine.batches import Batch

EPSILON = 1e-7


def genetic_regularization(adversarial: Tensor, clean: Tensor, batch: Batch, *, weight: Tensor) -> Tensor:
    """L_gr, the fuzzy cross-entropy between the neighbor graphs of clean and adversarial features, for each row.

    With unit rows a_i (adversarial) and b_i (clean), e = 1e-7 and W_ij = tanh((w_i + w_j) / 32)::

        D_ij = clip(rho(a)_ij, e, 2 - e)            rho: locally connected cosine distance
        T_ij = clip((1 - W_ij) rho(b)_ij + 2 m_ij W_ij, e, 2 - e)      m_ij = +1 where y_i != y_j, else -1
        q_ij = (1 - D_ij / 2) / sum_k (1 - D_ik / 2)     p_ij the same from T
        L_gr_i = sum_j p log((p + e) / (q + e)) + (1 - p) log((1 - p + e) / (1 - q + e))

    Where the clean model is unsure of a pair (large W), the labels decide what the topology should be.

    Args:
        adversarial: Features of the adversarial images, (n, D).
        clean: Features of the same images without perturbation, (n, D).
        batch: Their labels, and the other rows of the global batch, which has N of them, at least 2: every row meets
            all N columns, whichever process has them.
        weight: Clean cross-entropy of each image, (n,), at least 0. No gradient flows through it.

    Returns:
        (n,). The authors sum over all pairs; the engine takes the mean over rows, so that one coefficient means the
        same at every batch size. Times N it is theirs.
    """
    columns, rows = batch.everyone(adversarial, clean, weight.detach(), batch.labels.to(adversarial.dtype))
    all_adversarial, all_clean, all_weights, labels = columns
    distance = locally_connected_distance(all_adversarial, rows).clamp(EPSILON, 2 - EPSILON)
    unsure = torch.tanh((all_weights[rows, None] + all_weights[None, :]) / 32)
    differs = torch.where(labels[rows, None] != labels[None, :], 1.0, -1.0).to(unsure.dtype)
    target = (1 - unsure) * locally_connected_distance(all_clean, rows) + 2 * differs * unsure
    p = neighbor_probability(target.clamp(EPSILON, 2 - EPSILON))
    q = neighbor_probability(distance)
    attraction = p * torch.log((p + EPSILON) / (q + EPSILON))
    repulsion = (1 - p) * torch.log((1 - p + EPSILON) / (1 - q + EPSILON))
    loss: Tensor = (attraction + repulsion).sum(dim=1)
    return loss


def locally_connected_distance(features: Tensor, rows: Tensor) -> Tensor:
    """Cosine distance minus each row's distance to its nearest neighbor; zero where a row meets itself.

    Features (N, D) and the numbers of n rows -> (n, N).
    """
    unit: Tensor = features / (features.norm(dim=1, keepdim=True) + EPSILON)
    distance = 1 - unit[rows] @ unit.T
    itself = rows[:, None] == torch.arange(len(features), device=features.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(dim=1, keepdim=True)
    connected: Tensor = (distance - nearest).masked_fill(itself, 0)
    return connected


def neighbor_probability(distance: Tensor) -> Tensor:
    """Turn distances in [0, 2] into probabilities over each row. (n, N) -> (n, N)."""
    similarity = 1 - distance / 2
    return similarity / similarity.sum(dim=1, keepdim=True)
