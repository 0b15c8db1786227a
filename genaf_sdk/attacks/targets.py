"""What a universal perturbation is crafted against: what is climbed, and what counts as success on held-out images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.batches import READING, features_of, outputs_of
from genaf_sdk.attacks.clusters import k_means
from genaf_sdk.attacks.losses import margin_loss
from genaf_sdk.models.parts import in_parts

Put = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) to the same images under attack."""

HELD_OUT, FEWEST_HELD_OUT, MOST_HELD_OUT = 0.125, 128, 512
FIRST_JUDGES = 32  # images that judge where many places of a patch are compared; twice as many once a third is left
TEMPERATURE = 0.1  # of InfoNCE
MARGIN_CAP = 5.0  # logits; beyond it a misclassified image no longer counts in the margin loss


class Success(NamedTuple):
    """How a perturbation does on held-out images; the stronger one is the larger one."""

    rate: float
    """Share of the images that it changes for another one, or another class."""
    distance: float
    """Mean loss, which decides where the rates are equal."""
    n: int

    @property
    def standard_error(self) -> float:
        """Of the rate."""
        return math.sqrt(max(self.rate * (1 - self.rate), 1 / self.n) / self.n)


class Target(ABC):
    """A model and the images that the attacker has, a part of which is held out to judge by.

    Args:
        images: (N, C, H, W).
        generator: Draws the part that is held out.
        held_out: Its share of the images, of which at least 128 and at most half are held out, and at most 512 judge;
            0 judges by those that are crafted on.
    """

    def __init__(self, images: Tensor, generator: torch.Generator, held_out: float = HELD_OUT) -> None:
        self.images = images
        order = torch.randperm(len(images), generator=generator).to(images.device)
        count = min(max(round(held_out * len(images)), FEWEST_HELD_OUT), len(images) // 2) if held_out else 0
        self.crafting = order[count:]
        self.held_out = order[: count or len(images)][:MOST_HELD_OUT]

    @abstractmethod
    def objective(self, loss: str, attacked: Tensor, indices: Tensor) -> Tensor:
        """Return the scalar to climb, for images (B, C, H, W) under attack that are ``indices`` (B,) of all."""

    @abstractmethod
    def outcome(self, attacked: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for each held-out image under attack, whether it is lost and by how much it moved; (B,) both."""

    @torch.no_grad()
    def success(self, put: Put, most: int | None = None) -> Success:
        """Return how an attack does on the held-out images, or on the first of them."""
        parts = [self.outcome(put(self.images[part]), part) for part in self.held_out[:most].split(READING)]
        changed, moved = (torch.cat(column).float() for column in zip(*parts, strict=True))
        return Success(float(changed.mean()), float(moved.mean()), len(changed))


class FeatureTarget(Target):
    """An encoder without labels: features have to leave the clean ones, so far that another image's are nearer.

    Measured on a hardened model, the share of images that leave their k-means cluster ranks the losses the wrong way
    round (the squared distance first, which leaves most images right).
    """

    def __init__(
        self, encoder: nn.Module, images: Tensor, generator: torch.Generator, held_out: float = HELD_OUT
    ) -> None:
        super().__init__(images, generator, held_out)
        self.encoder, self.clean = encoder, features_of(encoder, images)
        self.directions = F.normalize(self.clean, dim=1)

    def objective(self, loss: str, attacked: Tensor, indices: Tensor) -> Tensor:
        """Return the ``info-nce``, minus the ``cosine`` similarity, or the ``mse``; all against the clean features.

        Negatives of InfoNCE are the clean features of all other images, not those of the batch alone: they are known
        and cost one small matrix product. Where there is no other image, the cosine takes its place.
        """
        features, clean = in_parts(self.encoder, attacked), self.clean[indices]
        if loss == "info-nce" and len(self.clean) > 1:
            similarity = F.normalize(features, dim=1) @ self.directions.T
            return F.cross_entropy(similarity / TEMPERATURE, indices)
        if loss in ("cosine", "info-nce"):
            return -F.cosine_similarity(features, clean, dim=1).mean()
        return F.mse_loss(features, clean)

    def goals(self, most: int, generator: torch.Generator) -> list[Tensor]:
        """Return up to ``most`` centers (D,) of k-means clusters of the directions of clean features, largest first."""
        if not most:
            return []
        centers, own = k_means(self.directions[self.crafting], most, generator)
        sizes = own.bincount(minlength=len(centers))
        return [F.normalize(centers[index], dim=0) for index in sizes.argsort(descending=True).tolist()]

    def toward(self, goal: Tensor, attacked: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean cosine similarity of the features with the center."""
        return (F.normalize(in_parts(self.encoder, attacked), dim=1) @ goal).mean()

    def outcome(self, attacked: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether another held-out image is nearest to the features, and 1 minus the cosine similarity."""
        features = in_parts(self.encoder, attacked)
        similarity = F.cosine_similarity(features, self.clean[indices], dim=1)
        nearest = self.held_out[(F.normalize(features, dim=1) @ self.directions[self.held_out].T).argmax(dim=1)]
        return nearest != indices, 1 - similarity


class ClusterTarget(Target):
    """An encoder without labels: features have to come close to those of one kind of images, a k-means cluster.

    How far features go says little of what a classifier answers there, where it was never trained. How close they come
    to others says more, and not enough to choose a cluster by: see ``EncoderAttack.tries``.

    Args:
        features: What the clusters are of.
        centers: Of the clusters, of length 1, (K, D).
        index: Of the one to reach.
    """

    def __init__(self, features: FeatureTarget, centers: Tensor, index: int) -> None:
        self.images, self.crafting, self.held_out = features.images, features.crafting, features.held_out
        self.features, self.centers, self.index = features, centers, index
        self.own = (features.directions @ centers.T).argmax(dim=1)

    def objective(self, loss: str, attacked: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG002
        """Return the mean ``cosine`` similarity of the features with the center."""
        return self.features.toward(self.centers[self.index], attacked, indices)

    def outcome(self, attacked: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether the center is the nearest to an image of another cluster, and how near it is (cosine).

        Where all images are of one cluster: whether another image is nearest, and 1 minus the cosine similarity.
        """
        if len(self.centers) == 1:
            return self.features.outcome(attacked, indices)
        similarity = F.normalize(in_parts(self.features.encoder, attacked), dim=1) @ self.centers.T
        arrived = (similarity.argmax(dim=1) == self.index) & (self.own[indices] != self.index)
        return arrived, similarity[:, self.index]


def cluster_targets(
    encoder: nn.Module, images: Tensor, count: int, generator: torch.Generator, held_out: float = HELD_OUT
) -> list[ClusterTarget]:
    """Return a target for each k-means cluster of clean features, the largest first.

    Args:
        encoder: Pixels to features.
        images: (N, C, H, W).
        count: Number of clusters, fewer if there are fewer images.
        generator: Draws the part that is held out, and where k-means begins.
        held_out: See ``Target``.
    """
    features = FeatureTarget(encoder, images, generator, held_out)
    centers = torch.stack(features.goals(count, generator))
    return [ClusterTarget(features, centers, index) for index in range(len(centers))]


class LabelTarget(Target):
    """A classifier and the labels of the images."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        clamp: float,
        generator: torch.Generator,
        held_out: float = HELD_OUT,
    ) -> None:
        super().__init__(images, generator, held_out)
        self.model, self.labels, self.clamp = model, labels, clamp

    def objective(self, loss: str, attacked: Tensor, indices: Tensor) -> Tensor:
        """Return the mean ``cross-entropy`` or ``margin``, each capped for every image."""
        logits, labels = in_parts(self.model, attacked), self.labels[indices]
        if loss == "margin":
            return margin_loss(logits, labels).clamp(max=MARGIN_CAP).mean()
        return F.cross_entropy(logits, labels, reduction="none").clamp(max=self.clamp).mean()

    def goals(self, most: int, generator: torch.Generator) -> list[Tensor]:  # noqa: ARG002  # as for features
        """Return up to ``most`` classes, the likeliest for clean images of others first (mean log-probability)."""
        scores = outputs_of(self.model, self.images[self.crafting]).log_softmax(dim=1)
        own = F.one_hot(self.labels[self.crafting], scores.shape[1]).bool()
        closeness = scores.masked_fill(own, 0).sum(dim=0) / (~own).sum(dim=0).clamp(min=1)
        return list(closeness.argsort(descending=True)[:most])

    def toward(self, goal: Tensor, attacked: Tensor, indices: Tensor) -> Tensor:
        """Return the mean log-probability of the class over the images of other classes."""
        scores = in_parts(self.model, attacked).log_softmax(dim=1)[:, goal]
        others = self.labels[indices] != goal
        return (scores * others).sum() / others.sum().clamp(min=1)

    def outcome(self, attacked: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether the image is misclassified, and the probability of all other classes.

        The mean of that follows the share of misclassified images; the mean loss follows the few that are lost most.
        """
        logits, labels = in_parts(self.model, attacked), self.labels[indices]
        right = logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
        return logits.argmax(dim=1) != labels, 1 - right
