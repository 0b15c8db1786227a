"""Genetic regularization: adversarial features inherit the topology of the benign ones (paper, section on stage 1)."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-7


def genetic_regularization(
    adversarial: Tensor, benign: Tensor, labels: Tensor, *, weight: Tensor, rows: Tensor | None = None
) -> Tensor:
    """L_gr, the fuzzy cross-entropy between the neighbour graphs of benign and adversarial features.

    With unit rows a_i (adversarial) and b_i (benign), e = 1e-7 and W_ij = tanh((w_i + w_j) / 32)::

        D_ij = clip(rho(a)_ij, e, 2 - e)            rho: locally connected cosine distance
        T_ij = clip((1 - W_ij) rho(b)_ij + 2 m_ij W_ij, e, 2 - e)      m_ij = +1 where y_i != y_j, else -1
        q_ij = (1 - D_ij / 2) / sum_k (1 - D_ik / 2)     p_ij the same from T
        L_gr = 1/n sum_ij p log((p + e) / (q + e)) + (1 - p) log((1 - p + e) / (1 - q + e))

    Where the clean model is unsure of a pair (large W), the labels decide what the topology should be.

    Args:
        adversarial: Features of the adversarial images, (N, D), N at least 2.
        benign: Features of the same images without perturbation, (N, D).
        labels: Class of each image, integers, (N,).
        weight: Clean cross-entropy of each image, (N,), at least 0. No gradient flows through it.
        rows: Numbers (n,) of the rows i that are summed here, where other processes sum the others; None is all. Every
            row still meets all N columns, so that the sums of all processes add up to the whole.

    Returns:
        The loss, a scalar. The authors sum over all pairs; this is the mean over rows, so that one coefficient means
        the same at every batch size. Times N it is theirs.
    """
    rows = torch.arange(len(labels), device=labels.device) if rows is None else rows
    distance = locally_connected_distance(adversarial, rows).clamp(EPSILON, 2 - EPSILON)
    unsure = torch.tanh((weight[rows, None] + weight[None, :]).detach() / 32)
    differs = torch.where(labels[rows, None] != labels[None, :], 1.0, -1.0).to(unsure.dtype)
    target = (1 - unsure) * locally_connected_distance(benign, rows) + 2 * differs * unsure
    p = neighbour_probability(target.clamp(EPSILON, 2 - EPSILON))
    q = neighbour_probability(distance)
    attraction = p * torch.log((p + EPSILON) / (q + EPSILON))
    repulsion = (1 - p) * torch.log((1 - p + EPSILON) / (1 - q + EPSILON))
    loss: Tensor = (attraction + repulsion).sum() / len(labels)
    return loss


def locally_connected_distance(features: Tensor, rows: Tensor) -> Tensor:
    """Cosine distance minus each row's distance to its nearest neighbour; zero where a row meets itself.

    Features (N, D) and the numbers of n rows -> (n, N).
    """
    unit: Tensor = features / (features.norm(dim=1, keepdim=True) + EPSILON)
    distance = 1 - unit[rows] @ unit.T
    itself = rows[:, None] == torch.arange(len(features), device=features.device)
    nearest = distance.masked_fill(itself, torch.inf).amin(dim=1, keepdim=True)
    connected: Tensor = (distance - nearest).masked_fill(itself, 0)
    return connected


def neighbour_probability(distance: Tensor) -> Tensor:
    """Turn distances in [0, 2] into probabilities over each row. (n, N) -> (n, N)."""
    similarity = 1 - distance / 2
    return similarity / similarity.sum(dim=1, keepdim=True)
