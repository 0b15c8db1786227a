"""Which classes an attack hurts, and what they are taken for: the counts behind the accuracies."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.report.scores import Score

MOST_CONFUSIONS = 400  # all pairs of up to twenty classes


def is_universal(score: Score) -> bool:
    """Whether a row belongs to one perturbation for all images, crafted by an attack (noise is none)."""
    return bool(score.perturbation) and score.column != "noise"


def worst_universal(scores: list[Score], model: str) -> Score | None:
    """Return the row of the universal attack that leaves ``model`` the fewest right predictions, or None."""
    rows = [score for score in scores if score.model == model and is_universal(score)]
    return min(rows, key=lambda score: score.accuracy, default=None)


def class_counts(
    scores: list[Score], predictions: dict[tuple[str, str], Tensor], labels: Tensor, classes: int
) -> dict[str, Any]:
    """Count right predictions by class, clean and under the universal attack that is worst for each model.

    Args:
        scores: Rows of the report.
        predictions: Class of each image (N,) by model and key of the perturbation; clean ones have an empty key.
        labels: True classes (N,).
        classes: How many there are, K.

    Returns:
        By model: ``n``, ``clean`` and ``attacked`` (K counts each), the ``column``, ``attack`` and ``perturbation``
        that did it, its ``confusions`` (true and predicted class, count; most frequent first, at most
        ``MOST_CONFUSIONS``) and how many were ``omitted``. Attacked counts are missing where nothing was crafted.
    """
    found: dict[str, Any] = {}
    for model in dict.fromkeys(score.model for score in scores):
        clean = predictions[model, ""]
        entry: dict[str, Any] = {"n": _count(labels, classes), "clean": _count(labels[clean == labels], classes)}
        worst = worst_universal(scores, model)
        if worst is not None:
            attacked = predictions[model, worst.perturbation]
            wrong = attacked != labels
            pairs = Counter(zip(labels[wrong].tolist(), attacked[wrong].tolist(), strict=True))
            ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
            entry |= {
                "attacked": _count(labels[~wrong], classes),
                "column": worst.column,
                "attack": worst.attack,
                "perturbation": worst.perturbation,
                "confusions": [
                    {"true": true, "predicted": predicted, "count": count}
                    for (true, predicted), count in ranked[:MOST_CONFUSIONS]
                ],
                "omitted": sum(count for _, count in ranked[MOST_CONFUSIONS:]),
            }
        found[model] = entry
    return found


def _count(labels: Tensor, classes: int) -> list[int]:
    counts: list[int] = torch.bincount(labels, minlength=classes).tolist()
    return counts
