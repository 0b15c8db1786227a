"""Signs of gradient masking (Carlini et al., On Evaluating Adversarial Robustness, 2019)."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from genaf_sdk.attacks.pgd import PGD
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import Z_95, Check, CurvePoint, Score, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from genaf_sdk.evaluation.crafting import Row
    from genaf_sdk.evaluation.model import EvaluatedModel

UNBOUNDED, UNBOUNDED_IMAGES = PGD(budget=1.0, steps=50, relative_step_size=0.05), 100


def gradient_masking_checks(
    model: EvaluatedModel,
    rows: Sequence[Row],
    scores: Sequence[Score],
    curve: Sequence[CurvePoint],
    images: tuple[Tensor, Tensor],
    labels: Tensor,
    seed: int,
) -> list[Check]:
    """Return the checks that the rows at hand allow, each with the numbers that decided it.

    Args:
        model: The hardened model.
        rows: Rows of the table, with what every model says of each image.
        scores: The same, counted.
        curve: Accuracy against budget.
        images: Pixels (n, C, H, W) and labels (n,) for an attack of its own.
        labels: Classes of all test images (N,), in the order of the rows.
        seed: Of the attack.
    """
    own = [score for score in scores if score.model == model.name]
    checks = [larger_budgets(curve), adaptive_not_weaker(model, rows, labels), attacks_beat_noise(own)]
    if model.module is not None:
        pixels, own_labels = images
        checks.append(_unbounded(model, pixels[:UNBOUNDED_IMAGES], own_labels[:UNBOUNDED_IMAGES], seed))
    return [check for check in checks if check is not None]


def larger_budgets(curve: Sequence[CurvePoint]) -> Check | None:
    """Accuracy does not rise with the budget, by more than chance allows."""
    lines: dict[tuple[str, str], list[CurvePoint]] = defaultdict(list)
    for point in sorted(curve, key=lambda point: point.budget):
        lines[point.column, point.attack].append(point)
    if not lines:
        return None
    passed, texts = True, []
    for (column, attack), points in lines.items():
        for before, after in pairwise(points):
            passed &= after.accuracy <= wilson_interval(before.correct, before.n)[1]
        texts.append(f"{column} {attack} " + ", ".join(f"{p.budget * 255:.3g}: {p.accuracy:.1%}" for p in points))
    return Check("Accuracy does not rise with the budget", passed, "; ".join(texts))


def adaptive_not_weaker(model: EvaluatedModel, rows: Sequence[Row], labels: Tensor) -> Check | None:
    """An attack on the model's own encoder is not weaker than the same attack, transferred from the published one.

    Both are put on the same images, so the images on which they differ are counted (McNemar): the check fails where
    the transferred one wins on more of these than chance allows, by 1.96 standard errors.
    """
    own = [row for row in rows if row.model is model and row.predicted is not None]
    passed, texts = True, []
    for adaptive in (row for row in own if row.column == Knowledge.ADAPTIVE):
        transferred = next((row for row in own if _same_attack(row, adaptive)), None)
        if transferred is None or transferred.predicted is None or adaptive.predicted is None:
            continue
        right, right_transferred = adaptive.predicted == labels, transferred.predicted == labels
        lost, won = int((right & ~right_transferred).sum()), int((~right & right_transferred).sum())
        passed &= lost - won <= Z_95 * math.sqrt(lost + won)
        texts.append(
            f"{adaptive.name} transferred {right_transferred.float().mean():.1%}, adaptive {right.float().mean():.1%}: "
            f"only the transferred one fools {lost} images, only the adaptive one {won}"
        )
    return Check("Adaptive attacks are not weaker than transferred ones", passed, "; ".join(texts)) if texts else None


def _same_attack(transferred: Row, adaptive: Row) -> bool:
    if transferred.column != Knowledge.TRANSFER or transferred.perturbation is None or adaptive.perturbation is None:
        return False
    one, other = transferred.perturbation, adaptive.perturbation
    return (one.attack, one.threat, one.key.run) == (other.attack, other.threat, other.key.run) and (
        transferred.source in (adaptive.source, "replayed")
    )


def attacks_beat_noise(scores: Sequence[Score]) -> Check | None:
    """Random noise of the same budget is not stronger than any attack."""
    noise = next((score for score in scores if score.column == Knowledge.NOISE), None)
    attacks = [s for s in scores if s.column in (Knowledge.ADAPTIVE, Knowledge.WHITE_BOX)]
    if noise is None or not attacks:
        return None
    weak = [score for score in attacks if score.interval[0] > noise.interval[1]]
    text = f"noise {noise.accuracy:.1%}; " + (
        "; ".join(f"{score.column} {score.attack} {score.accuracy:.1%}" for score in weak) or "no attack is weaker"
    )
    return Check("Every attack is at least as strong as noise", not weak, text)


def _unbounded(model: EvaluatedModel, pixels: Tensor, labels: Tensor, seed: int) -> Check:
    """An attack without a bound leaves (almost) nothing right."""
    if model.module is None:
        raise TypeError("an unbounded gradient attack needs a module")
    adversarial = UNBOUNDED(model.module, pixels.to(model.device), labels.to(model.device), seed=seed)
    correct = int((model.predict(adversarial) == labels).sum())
    share = correct / len(labels)
    return Check(
        "An unbounded attack succeeds", share <= 0.02, f"PGD at budget 1.0 leaves {share:.1%} of {len(labels)}"
    )
