"""k-means gives every attack the same clusters, however many processors there are."""

from __future__ import annotations

import torch
from threadpoolctl import threadpool_limits

from genaf_sdk.attacks.clusters import k_means


def test_clusters_do_not_depend_on_the_number_of_threads() -> None:
    """Several threads add up their shares as they end: with three or more, no two runs would round alike."""
    points = torch.nn.functional.normalize(torch.randn(2048, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    found = []
    for threads in (1, 2, 6, 6):
        with threadpool_limits(threads, "openmp"):
            found.append(k_means(points, 6, torch.Generator().manual_seed(0)))
            assert torch.get_num_threads() == threads, "and torch keeps its own"
    for centers, own in found[1:]:
        assert torch.equal(centers, found[0][0])
        assert torch.equal(own, found[0][1])


def test_centers_are_the_means_of_their_points_and_there_are_no_more_than_points() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 9.0]])
    centers, own = k_means(points, 2, torch.Generator().manual_seed(0), starts=3)
    assert own[0] == own[1] != own[2]
    assert torch.equal(centers[own[0]], points[:2].mean(dim=0))
    centers, own = k_means(points[:1].expand(3, -1), 5, torch.Generator().manual_seed(0))
    assert (centers.shape, own.tolist()) == ((3, 2), [0, 0, 0])
