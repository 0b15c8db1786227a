"""Signs of gradient masking (Carlini et al., On Evaluating Adversarial Robustness, 2019)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from genaf_sdk.attacks.pgd import PGD
from genaf_sdk.report.scores import Check, CurvePoint, Score, wilson_interval

if TYPE_CHECKING:
    from torch import Tensor

    from genaf_sdk.evaluation.subject import Subject

UNBOUNDED_IMAGES = 100


def gradient_masking_checks(
    subject: Subject, scores: list[Score], curve: list[CurvePoint], pixels: Tensor, labels: Tensor, seed: int
) -> list[Check]:
    """Return the checks that the rows at hand allow, each with the figures that decided it."""
    own = [score for score in scores if score.model == subject.name]
    checks = [
        check
        for check in (_larger_budgets(curve), _adaptive_not_weaker(own), _attacks_beat_noise(own))
        if check is not None
    ]
    if subject.module is not None:
        checks.append(_unbounded(subject, pixels[:UNBOUNDED_IMAGES], labels[:UNBOUNDED_IMAGES], seed))
    return checks


def _larger_budgets(curve: list[CurvePoint]) -> Check | None:
    """A larger budget never helps the defender, by more than chance allows."""
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
    return Check("A larger budget never helps the defender", passed, "; ".join(texts))


def _adaptive_not_weaker(scores: list[Score]) -> Check | None:
    """An attack on the model's own encoder is not weaker than the same attack on the published one."""
    transfer = {score.attack: score for score in scores if score.column == "transfer"}
    pairs = [(transfer[s.attack], s) for s in scores if s.column == "adaptive" and s.attack in transfer]
    if not pairs:
        return None
    passed = all(adaptive.interval[0] <= before.interval[1] for before, adaptive in pairs)
    text = "; ".join(f"{a.attack} transfer {t.accuracy:.1%}, adaptive {a.accuracy:.1%}" for t, a in pairs)
    return Check("Adaptive attacks are not weaker than transferred ones", passed, text)


def _attacks_beat_noise(scores: list[Score]) -> Check | None:
    """Random noise of the same budget is not stronger than any attack."""
    noise = next((score for score in scores if score.column == "noise"), None)
    attacks = [s for s in scores if s.column in ("adaptive", "white-box")]
    if noise is None or not attacks:
        return None
    weak = [score for score in attacks if score.interval[0] > noise.interval[1]]
    text = f"noise {noise.accuracy:.1%}; " + (
        "; ".join(f"{score.column} {score.attack} {score.accuracy:.1%}" for score in weak) or "no attack is weaker"
    )
    return Check("Every attack is at least as strong as noise", not weak, text)


def _unbounded(subject: Subject, pixels: Tensor, labels: Tensor, seed: int) -> Check:
    """An attack without a bound leaves (almost) nothing right."""
    attack = PGD(budget=1.0, steps=50, relative_step_size=0.05)
    module = subject.module
    if module is None:
        raise TypeError("an unbounded gradient attack needs a module")
    adversarial = attack(module, pixels.to(subject.device), labels.to(subject.device), seed=seed)
    correct = int((subject.predict(adversarial) == labels).sum())
    share = correct / len(labels)
    return Check(
        "An unbounded attack succeeds", share <= 0.02, f"PGD at budget 1.0 leaves {share:.1%} of {len(labels)}"
    )
