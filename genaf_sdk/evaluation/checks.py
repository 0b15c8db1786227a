"""Signs of gradient masking (Carlini et al., On Evaluating Adversarial Robustness, 2019)."""

from __future__ import annotations

import math
from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.patch import ImagePatch
from genaf_sdk.attacks.pgd import PGD
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.inputs.threat import ROUNDING
from genaf_sdk.report.scores import Z_95, Check, CurvePoint, Score, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.attacks.sample_wise import SampleWiseAttack
    from genaf_sdk.evaluation.model import EvaluatedModel
    from genaf_sdk.evaluation.row import Row
    from genaf_sdk.evaluation.workers import Own, Workers

UNBOUNDED, UNBOUNDED_IMAGES = PGD(budget=1.0, steps=50, relative_step_size=0.05), 100
AREAS = 0.01, 0.03, 0.1, 0.6
"""Shares of an image that patches of rising size cover; nothing should survive the last."""
UNBOUNDED_CHECK, AREA_CHECK = "An unbounded attack succeeds", "Accuracy does not rise with the area of a patch"
LARGE_CHECK = "A large patch succeeds"


@dataclass(frozen=True)
class OwnAttacks:
    """Attacks of the checks' own, on their way: of ``images`` that many are still right under each.

    Args:
        images: Pixels (n, C, H, W) and labels (n,).
        unbounded: Under PGD without a bound.
        areas: Under patches of rising area, by area.
    """

    images: tuple[Tensor, Tensor]
    unbounded: Future[int] | None = None
    areas: dict[float, Future[int]] = field(default_factory=dict)


def always_checked(*, patches: bool) -> tuple[str, ...]:
    """Return the names of the checks that no module goes without, and those of an evaluation with ``patches``."""
    return (UNBOUNDED_CHECK, AREA_CHECK, LARGE_CHECK) if patches else (UNBOUNDED_CHECK,)


def begin_own_attacks(
    model: EvaluatedModel, images: tuple[Tensor, Tensor], seed: int, workers: Workers, *, patches: bool
) -> OwnAttacks:
    """Have the hardened model attacked as its checks need it; a callable without gradients is not.

    Args:
        model: The hardened model.
        images: Pixels (N, C, H, W) and labels (N,), of which the first are attacked.
        seed: Of every attack.
        workers: Who does it.
        patches: Whether checks about patches are wanted.
    """
    pixels, labels = (part[:UNBOUNDED_IMAGES] for part in images)
    if model.module is None:
        return OwnAttacks((pixels, labels))

    def right(attack: SampleWiseAttack, own: Own) -> int:
        copied = model.copied(own)
        adversarial = attack(copied.classify, pixels.to(model.device), labels.to(model.device), seed=seed)
        return int((copied.predict(adversarial) == labels).sum())

    areas = [area for area in AREAS if patches and area * pixels.shape[2] * pixels.shape[3] >= 1]
    larger = {area: ImagePatch(budget=area, grid=1, windows=1, finalists=1, steps=30, walk=0) for area in areas}
    return OwnAttacks(
        (pixels, labels),
        workers.submit(partial(right, UNBOUNDED)),
        {area: workers.submit(partial(right, attack)) for area, attack in larger.items()},
    )


def gradient_masking_checks(
    model: EvaluatedModel,
    rows: Sequence[Row],
    scores: Sequence[Score],
    curve: Sequence[CurvePoint],
    own_attacks: OwnAttacks,
    labels: Tensor,
    seed: int,
) -> list[Check]:
    """Return the checks that the rows at hand allow, each with the numbers that decided it.

    Args:
        model: The hardened model.
        rows: Rows of the table, with what every model says of each image.
        scores: The same, counted.
        curve: Accuracy against budget.
        own_attacks: What ``begin_own_attacks`` began; it is waited for.
        labels: Classes of all test images (N,), in the order of the rows.
        seed: Of random patches.
    """
    own = [score for score in scores if score.model == model.name]
    checks = [
        larger_budgets(curve),
        adaptive_not_weaker(model, rows, labels),
        labels_not_weaker(model, rows, labels),
        own_patches_not_weaker(model, rows, labels),
        attacks_beat_noise(own, curve),
    ]
    pixels, own_labels = own_attacks.images
    checks.append(patches_beat_random_ones(model, rows, pixels, own_labels, seed))
    if own_attacks.unbounded is not None:
        checks.append(_unbounded(own_attacks.unbounded.result(), len(own_labels)))
    if own_attacks.areas:
        right = {area: future.result() for area, future in own_attacks.areas.items()}
        checks += [larger_areas(right, len(own_labels)), _large_patch(right, len(own_labels))]
    return [check for check in checks if check is not None]


def larger_budgets(curve: Sequence[CurvePoint]) -> Check | None:
    """Accuracy does not rise with the budget by more than chance allows, from the lowest point before.

    The points share their images: up to three more that are right are no finding, whichever differ (McNemar).
    """
    lines: dict[tuple[str, str], list[CurvePoint]] = defaultdict(list)
    for point in sorted(curve, key=lambda point: point.budget):
        lines[point.column, point.attack].append(point)
    if not lines:
        return None
    passed, texts = True, []
    for (column, attack), points in lines.items():
        lowest = accumulate(points, _lower)
        for before, after in zip(lowest, points[1:], strict=False):
            few = after.n == before.n and after.correct - before.correct <= Z_95**2
            passed &= few or after.accuracy <= wilson_interval(before.correct, before.n)[1]
        texts.append(f"{column} {attack} " + ", ".join(f"{p.budget * 255:.3g}: {p.accuracy:.1%}" for p in points))
    return Check("Accuracy does not rise with the budget", passed, "; ".join(texts))


def _lower(one: CurvePoint, other: CurvePoint) -> CurvePoint:
    return min(one, other, key=lambda point: point.accuracy)


def adaptive_not_weaker(model: EvaluatedModel, rows: Sequence[Row], labels: Tensor) -> Check | None:
    """An attack on the model's own encoder is not weaker than the same attack, transferred from the published one.

    Compared are those that climb: the others do not tell whether gradients are of use.
    """
    own = [row for row in rows if row.model is model and row.predicted is not None]
    pairs = [
        (_strongest(transferred, labels), adaptive)
        for adaptive in own
        if adaptive.column == Knowledge.ADAPTIVE
        and (adaptive.attack is None or adaptive.attack.needs_gradient)
        and (transferred := [row for row in own if _same_attack(row, adaptive)])
    ]
    return _not_weaker("Adaptive attacks are not weaker than transferred ones", pairs, labels)


def labels_not_weaker(model: EvaluatedModel, rows: Sequence[Row], labels: Tensor) -> Check | None:
    """An attack that knows the labels and the whole model is not weaker than the strongest that knows the encoder.

    Compared are perturbations for all images under the same threat, on the same images, as above.
    """
    own = [row for row in rows if row.model is model and row.perturbation is not None and row.predicted is not None]
    pairs = []
    for threat in dict.fromkeys(row.perturbation.threat for row in own if row.perturbation is not None):
        alike = [row for row in own if row.perturbation is not None and row.perturbation.threat == threat]
        knowing = [row for row in alike if row.column == Knowledge.WHITE_BOX]
        others = [row for row in alike if row.column in (Knowledge.TRANSFER, Knowledge.ADAPTIVE)]
        if knowing and others:
            pairs.append((_strongest(others, labels), _strongest(knowing, labels)))
    return _not_weaker("Attacks with labels are not weaker than those without", pairs, labels)


def own_patches_not_weaker(model: EvaluatedModel, rows: Sequence[Row], labels: Tensor) -> Check | None:
    """A patch for each image by itself is not weaker than the strongest one for all images of the same area."""
    own = [row for row in rows if row.model is model and row.predicted is not None and _is_patch(row)]
    pairs = []
    for each in (row for row in own if row.is_sample_wise and row.column == Knowledge.WHITE_BOX):
        threat = each.attack.threat if each.attack is not None else None
        same = [row for row in own if row.perturbation is not None and row.perturbation.threat == threat]
        if same and each.predicted is not None:
            pairs.append((_strongest(same, labels, len(each.predicted)), each))
    return _not_weaker("Patches for each image are not weaker than those for all", pairs, labels)


def _strongest(rows: Sequence[Row], labels: Tensor, n: int | None = None) -> Row:
    return min(rows, key=lambda row: int((row.predicted[:n] == labels[: len(row.predicted[:n])]).sum()))  # type: ignore[index]


def _is_patch(row: Row) -> bool:
    return row.attack is not None and row.attack.is_patch


def _not_weaker(name: str, pairs: Sequence[tuple[Row, Row]], labels: Tensor) -> Check | None:
    """Return whether each second row fools no fewer images than the first; None without rows.

    Both are put on the same images, so the images on which they differ are counted (McNemar): the check fails where
    the first wins on more of these than chance allows, by 1.96 standard errors.
    """
    passed, texts = True, []
    for less, more in pairs:
        if less.predicted is None or more.predicted is None:
            continue
        n = min(len(less.predicted), len(more.predicted))
        right, right_less = more.predicted[:n] == labels[:n], less.predicted[:n] == labels[:n]
        lost, won = int((right & ~right_less).sum()), int((~right & right_less).sum())
        passed &= lost - won <= Z_95 * math.sqrt(lost + won)
        texts.append(
            f"{less.column} {less.name} {right_less.float().mean():.1%}, {more.column} {more.name} "
            f"{right.float().mean():.1%}: only the first fools {lost} of {n} images, only the second {won}"
        )
    return Check(name, passed, "; ".join(texts)) if texts else None


def _same_attack(transferred: Row, adaptive: Row) -> bool:
    if transferred.column != Knowledge.TRANSFER or transferred.perturbation is None or adaptive.perturbation is None:
        return False
    one, other = transferred.perturbation, adaptive.perturbation
    if transferred.attack is not None and adaptive.attack is not None:  # its tries, too, which differ in the run
        return transferred.attack == adaptive.attack and transferred.source == adaptive.source
    alike = (one.attack, one.threat, one.key.run) == (other.attack, other.threat, other.key.run)
    return alike and transferred.source in (adaptive.source, "replayed")


def attacks_beat_noise(scores: Sequence[Score], curve: Sequence[CurvePoint]) -> Check | None:
    """Random noise is not stronger than any attack that may change pixels as much.

    Rows of the table count, and points of the curve. Smaller budgets and patches need not do more.
    """
    noise = next((score for score in scores if score.column == Knowledge.NOISE), None)
    if noise is None:
        return None
    rows: list[Score | CurvePoint] = [*(score for score in scores if not score.is_patch), *curve]
    knowing = [row for row in rows if row.column in (Knowledge.ADAPTIVE, Knowledge.WHITE_BOX)]
    attacks = [row for row in knowing if row.budget >= noise.budget - ROUNDING]
    if not attacks:
        return None
    weak = [row for row in attacks if wilson_interval(row.correct, row.n)[0] > noise.interval[1]]
    text = f"noise {noise.accuracy:.1%}; " + (
        "; ".join(f"{row.column} {row.attack} {row.accuracy:.1%}" for row in weak) or "no attack is weaker"
    )
    return Check("Every attack is at least as strong as noise", not weak, text)


def patches_beat_random_ones(
    model: EvaluatedModel, rows: Sequence[Row], pixels: Tensor, labels: Tensor, seed: int
) -> Check | None:
    """What a patch shows matters: random pixels and plain gray at the same place fool no more images."""
    patches = [row for row in rows if row.model is model and row.perturbation is not None and _is_patch(row)]
    if not patches:
        return None
    passed, texts = True, []
    for row in patches:
        crafted = row.perturbation
        if crafted is None:
            continue
        noise = torch.rand(crafted.values.shape, generator=torch.Generator().manual_seed(seed))
        shown = {"crafted": crafted.values, "random": noise, "gray": torch.full_like(noise, 0.5)}
        right = {
            name: int((model.predict(replace(crafted, values=values).apply(pixels)) == labels).sum())
            for name, values in shown.items()
        }
        least = min(right["random"], right["gray"])
        passed &= wilson_interval(right["crafted"], len(labels))[0] <= least / len(labels)
        texts.append(f"{row.column} {row.name} " + ", ".join(f"{k} {v / len(labels):.1%}" for k, v in right.items()))
    return Check("Patches are stronger than random ones", passed, "; ".join(texts))


def larger_areas(right: dict[float, int], n: int) -> Check:
    """Accuracy does not rise with the area of a patch by more than chance allows, from the lowest before.

    Args:
        right: By area, rising: how many of the same ``n`` images are right; three more are no finding (McNemar).
        n: Number of images.
    """
    counts = list(right.values())
    passed = all(after - lowest <= Z_95**2 for lowest, after in zip(accumulate(counts, min), counts[1:], strict=False))
    text = "one for each image: " + ", ".join(f"{area:.0%}: {count / n:.1%}" for area, count in right.items())
    return Check(AREA_CHECK, passed, f"{text} of {n}")


def _large_patch(right: dict[float, int], n: int) -> Check:
    """A patch over most of the image leaves (almost) nothing right."""
    area, count = max(right), right[max(right)]
    text = f"a patch over {area:.0%} leaves {count / n:.1%} of {n}"
    return Check(LARGE_CHECK, count <= 0.02 * n, text)


def _unbounded(right: int, n: int) -> Check:
    """An attack without a bound leaves (almost) nothing right."""
    share = right / n
    return Check(UNBOUNDED_CHECK, share <= 0.02, f"PGD at budget 1.0 leaves {share:.1%} of {n}")
