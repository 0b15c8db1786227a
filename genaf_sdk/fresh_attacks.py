"""Fresh attacks on a bundle, with the verifier's seed and images: from the published encoder, and on the model."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.data.sampling import Sample
from genaf_sdk.engine.accelerator import own_device
from genaf_sdk.errors import EncoderError
from genaf_sdk.estimates import duration, seconds_of_a_pass
from genaf_sdk.evaluation.cost import Beside, evaluation_passes
from genaf_sdk.evaluation.crafting import JUDGING
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.outcome import Item, Outcome, not_replayed
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.verify import tolerance
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import Role
from genaf_sdk.report.verdict import budget_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from genaf_sdk.attacks.base import Attack
    from genaf_sdk.data import DataSplits
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.inputs.threat import Threat
    from genaf_sdk.models.encoder import PixelEncoder
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.scores import Score

FRESH = (
    *("uapgd", "cluster-uap", "encoder-patch", "cluster-patch", "plain-patch"),
    *("label-uap", "patch-uap", "pgd", "patch"),
)
"""Attacks of a verifier: from encoders, on the whole model for all images, and for each image. Of several tries the
strongest counts, as in an evaluation, and an attack that knows the model starts from the strongest that those before it
found under the same threat."""
IMAGES = EvaluationConfig()
"""On how many images they are crafted, and how many get one of their own: as in an evaluation."""
MOST_BUDGETS = 3
"""At how many of the budgets that a report states for one kind, the largest."""
MARGIN = 0.02
"""How much lower than stated, beyond chance, a fresh attack may leave the accuracy: attacks are lucky or not."""


@dataclass(frozen=True)
class _Fresh:
    """An attack, as text with its budget, and what whoever runs it knows."""

    text: str
    knowledge: Knowledge

    @property
    def attack(self) -> Attack:
        return load_attack(self.text)


@dataclass(frozen=True)
class _Target:
    """Weights and file of one bundle, the images that both are measured on, and the seed of the attacks."""

    weights: EvaluatedModel
    graph: OnnxModel
    sample: Sample
    same_data: bool
    seed: int


def attacked_anew(
    folder: Path,
    report: RobustnessReport,
    data: DataSplits,
    seed: int,
    *,
    backbone: nn.Module | None,
    public: PixelEncoder | None,
    on_attack: Callable[[str], object],
) -> list[Item]:
    """Attack weights and ONNX file anew; hold what is found against the strongest row of its knowledge and threat.

    Args:
        folder: A bundle's folder.
        report: Its report.
        data: The verifier's images, their classes in the order of the model's.
        seed: Of the attacks.
        backbone: As for ``verify``.
        public: The published encoder; None transfers nothing.
        on_attack: Called with a line of text before each attack.
    """
    device = own_device()
    try:
        model = HardenedModel.from_pretrained(folder, backbone=backbone).to(device)
    except EncoderError as error:
        return [not_replayed("fresh attacks", "", f"{error.problem} Pass backbone= to attack.")]
    weights = EvaluatedModel.of(model, Role.HARDENED)
    same = data.fingerprint == report.data.fingerprint
    target = _Target(weights, OnnxModel(folder), Sample.draw(data.test, None, seed=seed), same, seed)
    pixels, labels = (each.to(device) for each in data.train.sample(IMAGES.surrogate_samples, seed=seed))
    if public is not None and public.mean.device != device:
        public = copy.deepcopy(public).to(device)  # the verifier's stays where it is
    chosen = list(_chosen(report, transfers=public is not None))
    attacks = tuple(dict.fromkeys(fresh.text for fresh in chosen))
    beside = Beside(public=public is not None, baseline=False)
    passes = evaluation_passes(replace(IMAGES, attacks=attacks, curve=()), data, beside)
    on_attack(f"fresh attacks, about {duration(passes * seconds_of_a_pass(model, data, passes))} here")
    items: list[Item] = []
    known: dict[Threat, Perturbation] = {}

    def right(found: Perturbation) -> int:
        return int((weights.predict(found.apply(pixels[:JUDGING])) == labels[:JUDGING].cpu()).sum())

    for fresh in chosen:
        attack = fresh.attack
        on_attack(f"fresh: {fresh.knowledge} {attack.name}")
        start = None if fresh.knowledge == Knowledge.TRANSFER else known.get(attack.threat)
        if isinstance(attack, SampleWiseAttack):
            order = target.sample.order[: IMAGES.patch_samples if attack.is_patch else IMAGES.sample_wise_samples]
            few = replace(target, sample=Sample(data.test, order))
            ones, targets = few.sample.first(len(order))
            adversarial = attack(model, ones.to(device), targets.to(device), seed=seed, start=start).cpu()
            items.append(_counted(few, report, fresh, [(adversarial, targets)]))
            continue
        if isinstance(attack, EncoderAttack):
            encoder = public if public is not None and fresh.knowledge == Knowledge.TRANSFER else model.encoder
            tries = attack.tries(encoder, pixels, seed=seed, start=start)
        elif isinstance(attack, UniversalModelAttack):
            tries = [attack(model, pixels, labels, seed=seed, start=start)]
        else:
            continue
        made = min(tries, key=right)
        batches = ((made.apply(shown), targets) for shown, targets in target.sample.batches())
        items.append(_counted(target, report, fresh, batches))
        before = known.get(attack.threat)
        known[attack.threat] = made if before is None else min(made, before, key=right)
    return items + _not_attacked(report, chosen, transfers=public is not None)


def _chosen(report: RobustnessReport, *, transfers: bool) -> Iterator[_Fresh]:
    """Yield the fresh attacks, each at every budget that the rows of its knowledge and kind state.

    One row more, at a budget that is easily borne, would keep what the others state from being tried.
    """
    for text in FRESH:
        attack = load_attack(text)
        by_encoder = isinstance(attack, EncoderAttack)
        for knowledge in (Knowledge.TRANSFER, Knowledge.ADAPTIVE) if by_encoder else (Knowledge.WHITE_BOX,):
            if transfers or knowledge != Knowledge.TRANSFER:
                for budget in _budgets(report, attack, knowledge):
                    yield _Fresh(f"{text}{',' if ':' in text else ':'}budget={budget!r}", knowledge)


def _budgets(report: RobustnessReport, attack: Attack, knowledge: Knowledge) -> list[float]:
    """Return the largest budgets of the rows of the attack's kind, or else of another column; or its own."""
    kind = [row for row in _of_kind(report.rows(), attack) if row.budget > 0 and row.column != Knowledge.NOISE]
    own = [row for row in kind if row.column == knowledge]
    return sorted({row.budget for row in own or kind}, reverse=True)[:MOST_BUDGETS] or [attack.budget]


def _not_attacked(report: RobustnessReport, chosen: Sequence[_Fresh], *, transfers: bool) -> list[Item]:
    """List the rows under which no fresh attack was run: of its knowledge, its kind and its budget."""
    tried = [row for fresh in chosen for row in _rows_like(report, fresh)]
    left = [row for row in report.rows() if row.budget > 0 and row.column != Knowledge.NOISE and row not in tried]
    return [
        not_replayed(
            f"fresh: {row.column} {row.attack}, {budget_text(row)}",
            f"{row.accuracy:.1%} of {row.n}",
            "the published encoder is not in the bundle: --encoder ID"
            if row.column == Knowledge.TRANSFER and not transfers
            else "no fresh attack is of its kind and budget",
        )
        for row in left
    ]


def _rows_like(report: RobustnessReport, fresh: _Fresh) -> list[Score]:
    """Return the rows of the attack's knowledge, kind and budget, whatever their attack is called."""
    rows = _of_kind(report.rows(fresh.knowledge), fresh.attack)
    return [row for row in rows if math.isclose(row.budget, fresh.attack.budget)]


def _of_kind(rows: Sequence[Score], attack: Attack) -> list[Score]:
    """Return the rows of patches or of perturbations, for all images or for each, whichever the attack makes."""
    each = isinstance(attack, SampleWiseAttack)
    return [row for row in rows if row.is_patch == attack.is_patch and (row.crafting_data == "test") == each]


def _counted(
    target: _Target, report: RobustnessReport, fresh: _Fresh, batches: Iterable[tuple[Tensor, Tensor]]
) -> Item:
    """Count what weights and file get right, and compare with the strongest row of that knowledge and threat.

    One attack is lucky or not. What a report promises is that nothing of its kind does more than its strongest row.
    """
    by_weights, by_file = 0, 0
    for pixels, labels in batches:
        by_weights += int((target.weights.predict(pixels) == labels).sum())
        by_file += int((target.graph(pixels).argmax(dim=1) == labels).sum())
    n, attack = len(target.sample), fresh.attack
    rows = _rows_like(report, fresh)
    strongest = min(rows, key=lambda row: row.accuracy, default=None)
    agrees = abs(by_weights - by_file) <= tolerance(n)
    found = f"{by_file} of {n} right ({by_file / n:.1%}) by the file, {by_weights} by the weights (seed {target.seed})"
    said = "no such row"
    if strongest is not None:
        agrees &= not target.same_data or by_file / n >= _least(strongest, n)
        own = min((row for row in rows if row.attack == attack.name), key=lambda row: row.accuracy, default=None)
        named = [(strongest, f" by {strongest.attack}")] if own is None else [(own, "")]
        if own is not None and own.accuracy > strongest.accuracy:
            named.append((strongest, f" by {strongest.attack}, the strongest"))
        said = "; ".join(f"{row.accuracy:.1%} of {row.n}{by}" for row, by in named)
        said += "" if target.same_data else ", on other images"
    return Item(
        f"fresh: {fresh.knowledge} {attack.name}, {attack.threat.text()}", Outcome.ATTACKED, agrees, said, found
    )


def _least(row: Score, n: int) -> float:
    """Return the lowest accuracy on ``n`` images that chance and luck allow under what a row states."""
    share = row.accuracy
    return share - MARGIN - 1.96 * math.sqrt(max(share * (1 - share), 0.25 / max(row.n, n)) * (1 / row.n + 1 / n))
