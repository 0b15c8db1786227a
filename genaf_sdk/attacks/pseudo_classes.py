"""Classes for an encoder that has none, so that attacks on decision boundaries can work on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.batches import outputs_of
from genaf_sdk.attacks.clusters import k_means
from genaf_sdk.errors import AttackError

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier

CLUSTERS = 10
PROBE_STEPS, PROBE_RATE = 200, 0.05


def feature_classes(encoder: nn.Module, images: Tensor, generator: torch.Generator) -> Classifier:  # noqa: ARG001
    """Return a classifier whose scores are the features, brought to mean 0 and deviation 1 over ``images``."""
    mean, deviation = _statistics(outputs_of(encoder, images))
    return lambda pixels: (encoder(pixels) - mean) / deviation


def probe_classes(encoder: nn.Module, images: Tensor, generator: torch.Generator) -> Classifier:
    """Return a linear classifier on the features, trained to tell the k-means clusters of ``images`` apart.

    Raises:
        AttackError: There is one image, and so no second cluster.
    """
    if len(images) < 2:
        raise AttackError("One surrogate image has no classes to tell apart.", expected="at least two images")
    features = outputs_of(encoder, images)
    mean, deviation = _statistics(features)
    scaled = (features - mean) / deviation
    _, clusters = k_means(scaled, CLUSTERS, generator, starts=4)
    targets = clusters.to(images.device)
    weight = torch.zeros(int(targets.max()) + 1, features.shape[1], device=images.device, requires_grad=True)
    bias = torch.zeros(len(weight), device=images.device, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], PROBE_RATE, weight_decay=1e-4)
    for _ in range(PROBE_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(F.linear(scaled, weight, bias), targets).backward()
        optimizer.step()
    final_weight, final_bias = weight.detach(), bias.detach()
    return lambda pixels: F.linear((encoder(pixels) - mean) / deviation, final_weight, final_bias)


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    if len(features) == 1:
        return features.mean(dim=0), torch.ones_like(features[0])
    deviation, mean = torch.std_mean(features, dim=0)
    return mean, deviation.clamp(min=1e-6)
