"""Which classes an attack hurts, and what they are taken for: the counts behind the accuracies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from genaf_sdk.report.scores import Score, is_universal, lowest_accuracy
from genaf_sdk.report.sections import ClassCounts, Confusion

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

MOST_CONFUSIONS = 400  # all pairs of up to twenty classes


def class_counts(
    scores: Sequence[Score], predictions: Mapping[tuple[str, str], Tensor], labels: Tensor, classes: int
) -> dict[str, ClassCounts]:
    """Count right predictions by class, clean and under the universal attack that is strongest against each model.

    Args:
        scores: Rows of the report.
        predictions: Class of each image (N,) by model and name of the perturbation; clean ones have an empty name.
        labels: True classes (N,).
        classes: How many there are, K.

    Returns:
        Counts by model. Of the errors under that attack, the ``MOST_CONFUSIONS`` most frequent pairs are kept.
    """
    found: dict[str, ClassCounts] = {}
    for model in dict.fromkeys(score.model for score in scores):
        clean = predictions[model, ""]
        counts = ClassCounts(_count(labels, classes), _count(labels[clean == labels], classes))
        strongest = lowest_accuracy(score for score in scores if score.model == model and is_universal(score))
        if strongest is not None:
            attacked = predictions[model, strongest.perturbation]
            wrong = attacked != labels
            pairs = Counter(zip(labels[wrong].tolist(), attacked[wrong].tolist(), strict=True))
            ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
            counts.attacked = _count(labels[~wrong], classes)
            counts.column, counts.attack = strongest.column, strongest.attack
            counts.perturbation = strongest.perturbation
            counts.confusions = [Confusion(*pair, count) for pair, count in ranked[:MOST_CONFUSIONS]]
            counts.omitted = sum(count for _, count in ranked[MOST_CONFUSIONS:])
        found[str(model)] = counts
    return found


def _count(labels: Tensor, classes: int) -> list[int]:
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return counts
