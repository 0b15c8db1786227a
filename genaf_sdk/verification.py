"""Verify a bundle as whoever did not make it: hold its parts together, replay it, and attack it anew."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk._version import __version__
from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.claims import check_claims
from genaf_sdk.data import DATA_IDS, load_data
from genaf_sdk.data.alignment import aligned
from genaf_sdk.data.sampling import Sample
from genaf_sdk.data.settings import LoadingConfig
from genaf_sdk.encoders import bundled, load_encoder
from genaf_sdk.errors import DataError, EncoderError, OutputError
from genaf_sdk.estimates import duration, seconds_of_a_pass
from genaf_sdk.evaluation.cost import Beside, evaluation_passes
from genaf_sdk.evaluation.crafting import JUDGING
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.consistency import ConfigFile, read_config
from genaf_sdk.export.layout import SIGNATURE_FILE
from genaf_sdk.export.outcome import Item, Outcome, Verification, not_replayed
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.signing import require_signature
from genaf_sdk.export.verify import tolerance, verify_bundle
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.models.checksums import check_whole
from genaf_sdk.models.fingerprint import fingerprint
from genaf_sdk.remeasured import replayed_beside
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role
from genaf_sdk.report.verdict import budget_text
from genaf_sdk.settings import Seed, converted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from genaf_sdk.attacks.base import Attack
    from genaf_sdk.data import DataSplits
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.inputs.threat import Threat
    from genaf_sdk.report.scores import Score

FRESH = (
    *("uapgd", "cluster-uap", "encoder-patch", "cluster-patch", "plain-patch"),
    *("label-uap", "patch-uap", "pgd", "patch"),
)
"""Attacks of a verifier: on the model's encoder, on the whole model for all images, and for each image. Of several
tries the strongest counts, as in an evaluation, and an attack starts from the strongest that those before it found
under the same threat."""
IMAGES = EvaluationConfig()
"""On how many images they are crafted, and how many get one of their own: as in an evaluation."""
MOST_BUDGETS = 3
"""At how many of the budgets that a report states for one kind, the largest."""
MARGIN = 0.02
"""How much lower than stated, beyond chance, a fresh attack may leave the accuracy: attacks are lucky or not."""
SAFE_DATA = tuple(name for name in DATA_IDS if ":" not in name)
"""Data whose ids lead to no folder of the verifier's choice and ask no network."""


def verify(
    bundle: str | Path,
    data: Any = None,
    *,
    fresh: bool = False,
    seed: int | None = None,
    signed_by: str | Path | None = None,
    backbone: nn.Module | None = None,
    on_attack: Callable[[str], object] = str,
) -> Verification:
    """Verify a bundle. Its report is data: it decides neither which images are read nor whether anything is fetched.

    Args:
        bundle: A bundle's folder.
        data: The verifier's images: an id, a folder, ``DataSplits``; as for ``load_data``. None takes the data set that
            the report names if it is one with an id, from this machine.
        fresh: Whether to attack anew: with the verifier's own seed, on weights and ONNX file. Images other than the
            report's will do then.
        seed: Of the fresh attacks; None draws one that nobody could know.
        signed_by: Whose signature the bundle has to have, as for ``genaf_sdk.export.signing.require_signature``; None
            asks for none.
        backbone: The encoder's architecture, needed only where it is a module of the publisher's own.
        on_attack: Called with a line of text before each attack.

    Returns:
        One item for everything that the bundle states; ``agrees`` is the verdict.

    Raises:
        GenafError: The bundle is damaged, not whole or not signed by ``signed_by`` (``ExportError``, ``OutputError``),
            that is no key (``ConfigError``), or the data cannot be had
            or is not that of the report (``DataError``).
    """
    folder = Path(bundle)
    check_whole(folder)
    signature = authorship(folder, signed_by)
    report, config = RobustnessReport.load(folder), read_config(folder)
    images = verifiers_data(data, report, config)
    found = verify_bundle(folder, images, backbone=backbone, foreign_data=fresh)
    again = check_claims(report, same_version=config.genaf_sdk == __version__)
    again += replayed_beside(folder, report, aligned(images, config.class_names, model="the bundle"))
    decided = {item.what: item for item in again}
    found.items = [decided.pop(item.what, item) for item in found.items]
    found.items += [*decided.values(), *signature, *_encoder_by_hash(report)]
    if fresh:
        chosen = secrets.randbelow(2**31) if seed is None else seed
        found.items += _attacked_anew(folder, report, config, images, chosen, backbone, on_attack)
    return found


def verifiers_data(data: Any, report: RobustnessReport, config: ConfigFile) -> DataSplits:
    """Return the images that a bundle is verified on, as its model takes them.

    Of the report, only what divides and resizes the images is used, each held to its type and range.

    Raises:
        DataError: No data is given, and the report names none that has an id and lies on this machine.
    """
    if data is None:
        if report.data.name not in SAFE_DATA:
            raise DataError(
                f"The report was made with {report.data.name[:80]!r}, which is no data set that this package knows.",
                expected=f"images of your own, or one of {', '.join(SAFE_DATA)}",
                remedy="say where the images are: --data FOLDER",
            )
        data = report.data.name
    settings = report.config or {}
    loading = settings.get("loading")
    stated = {"validation_fraction": settings.get("validation_fraction", LoadingConfig().validation_fraction)}
    stated |= (
        {name: value for name, value in loading.items() if name != "download"} if isinstance(loading, dict) else {}
    )
    return load_data(
        data,
        image_size=config.image_size,
        channels=config.channels,
        interpolation=config.interpolation,
        seed=converted(Seed, settings.get("seed", report.seed), "config.seed of the report", error=OutputError),
        **LoadingConfig.from_dict(stated, "config.loading.").to_dict(),
    )


def authorship(folder: Path, signed_by: str | Path | None) -> list[Item]:
    """Check who signed a bundle, or say that nobody asked.

    Raises:
        ConfigError: ``signed_by`` is no key.
        ExportError: The bundle is not signed by it, or was altered.
    """
    if signed_by is not None:
        return [require_signature(folder, str(signed_by))]
    if (folder / SIGNATURE_FILE).exists():
        return [not_replayed("signature", "signed", "by whom was not asked: --signed-by KEY")]
    return []


def _encoder_by_hash(report: RobustnessReport) -> list[Item]:
    """Compare the weights that the model was made from with those of this package, where they are of it."""
    if report.provenance is None:
        return []
    stated = report.provenance.encoder
    what, shown = "encoder by hash", f"{stated} {report.provenance.encoder_sha256[:16]}"
    if stated not in {encoder.id for encoder in bundled.known()}:
        return [not_replayed(what, shown, "the published encoder is not in the bundle")]
    found = fingerprint(load_encoder(stated).backbone.state_dict())
    return [Item(what, Outcome.RECOMPUTED, found == report.provenance.encoder_sha256, shown, found[:16])]


@dataclass(frozen=True)
class _Target:
    """Weights and file of one bundle, the images that both are measured on, and the seed of the attacks."""

    weights: EvaluatedModel
    graph: OnnxModel
    sample: Sample
    same_data: bool
    seed: int


def _attacked_anew(
    folder: Path,
    report: RobustnessReport,
    config: ConfigFile,
    images: DataSplits,
    seed: int,
    backbone: nn.Module | None,
    on_attack: Callable[[str], object],
) -> list[Item]:
    try:
        model = HardenedModel.from_pretrained(folder, backbone=backbone)
    except EncoderError as error:
        return [not_replayed("fresh attacks", "", f"{error.problem} Pass backbone= to attack.")]
    data = aligned(images, config.class_names, model="the bundle")
    weights = EvaluatedModel.of(model, Role.HARDENED)
    same = data.fingerprint == report.data.fingerprint
    target = _Target(weights, OnnxModel(folder), Sample.draw(data.test, None, seed=seed), same, seed)
    pixels, labels = data.train.sample(IMAGES.surrogate_samples, seed=seed)
    attacks = _at_stated_budgets(report)
    passes = evaluation_passes(replace(IMAGES, attacks=attacks, curve=()), data, Beside(public=False, baseline=False))
    on_attack(f"fresh attacks, about {duration(passes * seconds_of_a_pass(model, data, passes))} here")
    items: list[Item] = []
    known: dict[Threat, Perturbation] = {}

    def right(found: Perturbation) -> int:
        return int((weights.predict(found.apply(pixels[:JUDGING])) == labels[:JUDGING]).sum())

    for attack in map(load_attack, attacks):
        on_attack(f"fresh: {attack.name}")
        start = known.get(attack.threat)
        if isinstance(attack, SampleWiseAttack):
            order = target.sample.order[: IMAGES.patch_samples if attack.is_patch else IMAGES.sample_wise_samples]
            few = replace(target, sample=Sample(data.test, order))
            ones, targets = few.sample.first(len(order))
            adversarial = attack(model, ones, targets, seed=seed, start=start)
            items.append(_counted(few, report, attack, [(adversarial, targets)]))
            continue
        if isinstance(attack, EncoderAttack):
            tries = attack.tries(model.encoder, pixels, seed=seed, start=start)
        elif isinstance(attack, UniversalModelAttack):
            tries = [attack(model, pixels, labels, seed=seed, start=start)]
        else:
            continue
        made = min(tries, key=right)
        items.append(_compared(target, report, attack, made.apply))
        known[attack.threat] = made if start is None else min(made, start, key=right)
    return items + _not_attacked(report, [load_attack(text) for text in attacks])


def _at_stated_budgets(report: RobustnessReport) -> tuple[str, ...]:
    """Return the fresh attacks, each at every budget that the rows of its knowledge and kind state, as text.

    One row more, at a budget that is easily borne, would keep what the others state from being tried.
    """
    return tuple(
        f"{text}{',' if ':' in text else ':'}budget={budget!r}"
        for text in FRESH
        for budget in _budgets(report, load_attack(text))
    )


def _budgets(report: RobustnessReport, attack: Attack) -> list[float]:
    """Return the largest budgets of the rows of the attack's kind, or else of a column that knows less; or its own."""
    kind = [row for row in _of_kind(report.rows(), attack) if row.budget > 0 and row.column != Knowledge.NOISE]
    own = [row for row in kind if row.column == _column(attack)]
    return sorted({row.budget for row in own or kind}, reverse=True)[:MOST_BUDGETS] or [attack.budget]


def _column(attack: Attack) -> Knowledge:
    """Return what a verifier who attacks has: the model's encoder, or all of it."""
    return Knowledge.ADAPTIVE if isinstance(attack, EncoderAttack) else Knowledge.WHITE_BOX


def _not_attacked(report: RobustnessReport, attacks: Sequence[Attack]) -> list[Item]:
    """List the rows under which no fresh attack was run: of its knowledge, its kind and its budget."""
    tried = [row for one in attacks for row in _rows_like(report, one)]
    left = [row for row in report.rows() if row.budget > 0 and row.column != Knowledge.NOISE and row not in tried]
    return [
        not_replayed(
            f"fresh: {row.column} {row.attack}, {budget_text(row)}",
            f"{row.accuracy:.1%} of {row.n}",
            "the published encoder is not in the bundle"
            if row.column == Knowledge.TRANSFER
            else "no fresh attack is of its kind and budget",
        )
        for row in left
    ]


def _rows_like(report: RobustnessReport, attack: Attack) -> list[Score]:
    """Return the rows of the attack's knowledge, kind and budget, whatever their attack is called."""
    rows = _of_kind(report.rows(_column(attack)), attack)
    return [row for row in rows if math.isclose(row.budget, attack.budget)]


def _of_kind(rows: Sequence[Score], attack: Attack) -> list[Score]:
    """Return the rows of patches or of perturbations, for all images or for each, whichever the attack makes."""
    each = isinstance(attack, SampleWiseAttack)
    return [row for row in rows if row.is_patch == attack.is_patch and (row.crafting_data == "test") == each]


def _compared(target: _Target, report: RobustnessReport, attack: Attack, apply: Callable[[Tensor], Tensor]) -> Item:
    return _counted(target, report, attack, ((apply(pixels), labels) for pixels, labels in target.sample.batches()))


def _counted(target: _Target, report: RobustnessReport, attack: Attack, batches: Any) -> Item:
    """Count what weights and file get right, and compare with the strongest row of that knowledge and threat.

    One attack is lucky or not. What a report promises is that nothing of its kind does more than its strongest row.
    """
    by_weights, by_file = 0, 0
    for pixels, labels in batches:
        by_weights += int((target.weights.predict(pixels) == labels).sum())
        by_file += int((target.graph(pixels).argmax(dim=1) == labels).sum())
    n = len(target.sample)
    rows = _rows_like(report, attack)
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
    what = f"fresh: {_column(attack)} {attack.name}, {attack.threat.text()}"
    return Item(what, Outcome.ATTACKED, agrees, said, found)


def _least(row: Score, n: int) -> float:
    """Return the lowest accuracy on ``n`` images that chance and luck allow under what a row states."""
    share = row.accuracy
    return share - MARGIN - 1.96 * math.sqrt(max(share * (1 - share), 0.25 / max(row.n, n)) * (1 / row.n + 1 / n))
