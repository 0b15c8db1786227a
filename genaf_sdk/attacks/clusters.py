"""k-means clusters, the same on every number of processors."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def k_means(points: Tensor, count: int, generator: torch.Generator, *, starts: int = 1) -> tuple[Tensor, Tensor]:
    """Return centers (K, D), and the index of its own for each point, int64 (N,).

    On one thread: several add up their shares of a sum as they end, in another order every time, and the same seed
    would not make the same attack twice.

    Args:
        points: (N, D).
        count: Number of clusters K, fewer if there are fewer points.
        generator: Draws where the clusters begin.
        starts: From how many beginnings the best is taken.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    seed = int(torch.randint(2**31, (1,), generator=generator))
    with threadpool_limits(1, "openmp"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters
        found = KMeans(min(count, len(points)), n_init=starts, random_state=seed).fit(points.float().cpu().numpy())
    return torch.from_numpy(found.cluster_centers_).to(points), torch.from_numpy(found.labels_).long()
