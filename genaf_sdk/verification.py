"""Verify a bundle as whoever did not make it: hold its parts together, replay it, and attack it anew."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk.attacks.base import EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.data import DATA_IDS, load_data
from genaf_sdk.data.alignment import aligned
from genaf_sdk.data.sampling import Sample
from genaf_sdk.data.settings import LoadingConfig
from genaf_sdk.encoders import bundled, load_encoder
from genaf_sdk.errors import DataError, EncoderError, OutputError
from genaf_sdk.estimates import duration, seconds_of_a_pass
from genaf_sdk.evaluation.certificates import certify
from genaf_sdk.evaluation.corrupted import corruption_section
from genaf_sdk.evaluation.cost import Beside, evaluation_passes
from genaf_sdk.evaluation.crafting import JUDGING
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.settings import CertificateConfig, EvaluationConfig
from genaf_sdk.export.consistency import ConfigFile, read_config
from genaf_sdk.export.layout import SIGNATURE_FILE
from genaf_sdk.export.outcome import Item, Outcome, Verification, not_replayed, recomputed, replayed
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.signing import require_signature
from genaf_sdk.export.verify import LEAST_IMAGES, tolerance, verify_bundle
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.models.checksums import check_whole
from genaf_sdk.models.fingerprint import fingerprint
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role
from genaf_sdk.settings import Seed, converted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from genaf_sdk.attacks.base import Attack
    from genaf_sdk.data import DataSplits
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.inputs.threat import Threat
    from genaf_sdk.report.certificate import CertificateSection
    from genaf_sdk.report.corruptions import CorruptionSection
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
    found.items += [*signature, *_encoder_by_hash(report)]
    found.items += replayed_beside(folder, report, aligned(images, config.class_names, model="the bundle"))
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


def replayed_beside(folder: Path, report: RobustnessReport, data: DataSplits) -> list[Item]:
    """Certify the ONNX file anew, and corrupt the images again: counts are compared, as those of the rows.

    Args:
        folder: A bundle's folder.
        report: Its report.
        data: The verifier's images, their classes in the order of the model's.
    """
    certificate, corruptions = report.certificate, report.corruptions
    if certificate is None and corruptions is None:
        return []
    graph = OnnxModel(folder)
    items = [] if certificate is None else [_same_color(graph, certificate)]
    if data.fingerprint != report.data.fingerprint:
        stated = [] if certificate is None else ["certificate"]
        stated += [] if corruptions is None else [f"corruption: {row.kind}" for row in corruptions.of(Role.HARDENED)]
        return items + [not_replayed(what, "", "other images") for what in stated]
    sample = Sample.draw(data.test, None, seed=report.seed)
    items += [] if certificate is None else [_certified_again(graph, certificate, sample)]
    return items + ([] if corruptions is None else _corrupted_again(graph, corruptions, sample))


def _certified_again(graph: OnnxModel, stated: CertificateSection, sample: Sample) -> Item:
    config = CertificateConfig(patch=stated.area, masks=stated.masks_per_axis, samples=stated.n)
    found = certify(graph, sample, config, tuple(stated.fill))
    apart = max(abs(getattr(found, name) - getattr(stated, name)) for name in ("clean", "answered", "certified"))
    agrees = apart <= tolerance(stated.n) and stated.n >= min(LEAST_IMAGES, len(sample))
    agrees &= all(getattr(found, name) == getattr(stated, name) for name in ("n", "image", "patch", "mask", "masks"))
    return replayed("certificate", agrees, *(
        f"{section.certified} of {section.n} certified, {section.answered} right, {section.patch_text}"
        for section in (stated, found)
    ))  # fmt: skip


def _same_color(graph: OnnxModel, stated: CertificateSection) -> Item:
    """Compare the color that the certificate masks with to that of the file, which a server masks with."""
    what, shown, color = "certificate: color of the masks", _color(stated.fill), graph.mean_color
    if not color:
        return not_replayed(what, shown, f"{graph.path.name} states none")
    return recomputed(what, tuple(stated.fill) == color, shown, f"{_color(color)} in {graph.path.name}")


def _color(fill: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in fill)


def _corrupted_again(graph: OnnxModel, stated: CorruptionSection, sample: Sample) -> list[Item]:
    rows = stated.of(Role.HARDENED)
    n = max(row.n for row in rows) if rows else 0
    found = {row.kind: row for row in corruption_section([EvaluatedModel.of(graph, Role.HARDENED)], sample, n).rows}
    items = []
    for row in rows:
        again = found.get(row.kind)
        apart = row.n if again is None else abs(sum(again.correct) - sum(row.correct))
        agrees = again is not None and row.n == again.n and apart <= tolerance(5 * row.n)
        agrees &= row.n >= min(LEAST_IMAGES, len(sample))
        said = "there is no such corruption" if again is None else f"{again.accuracy:.1%} of {again.n}"
        items.append(replayed(f"corruption: {row.kind}", agrees, f"{row.accuracy:.1%} of {row.n}", said))
    return items


@dataclass(frozen=True)
class _Target:
    """Weights and file of one bundle, and the images that both are measured on."""

    weights: EvaluatedModel
    graph: OnnxModel
    sample: Sample
    same_data: bool


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
    target = _Target(weights, OnnxModel(folder), Sample.draw(data.test, None, seed=seed), same)
    pixels, labels = data.train.sample(IMAGES.surrogate_samples, seed=seed)
    passes = evaluation_passes(replace(IMAGES, attacks=FRESH, curve=()), data, Beside(public=False, baseline=False))
    on_attack(f"fresh attacks, about {duration(passes * seconds_of_a_pass(model, data, passes))} here")
    items: list[Item] = []
    known: dict[Threat, Perturbation] = {}

    def right(found: Perturbation) -> int:
        return int((weights.predict(found.apply(pixels[:JUDGING])) == labels[:JUDGING]).sum())

    for text in FRESH:
        attack = load_attack(text)
        attack = attack.with_budget(_budget(report, attack))
        on_attack(f"fresh: {attack.name}")
        start = known.get(attack.threat)
        if isinstance(attack, SampleWiseAttack):
            order = target.sample.order[: IMAGES.patch_samples if attack.is_patch else IMAGES.sample_wise_samples]
            few = replace(target, sample=Sample(data.test, order))
            ones, targets = few.sample.first(len(order))
            adversarial = attack(model, ones, targets, seed=seed, start=start)
            items.append(_counted(few, report, attack, Knowledge.WHITE_BOX, [(adversarial, targets)]))
            continue
        if isinstance(attack, EncoderAttack):
            column, tries = Knowledge.ADAPTIVE, attack.tries(model.encoder, pixels, seed=seed, start=start)
        elif isinstance(attack, UniversalModelAttack):
            column, tries = Knowledge.WHITE_BOX, [attack(model, pixels, labels, seed=seed, start=start)]
        else:
            continue
        made = min(tries, key=right)
        items.append(_compared(target, report, attack, column, made.apply))
        known[attack.threat] = made if start is None else min(made, start, key=right)
    return items


def _budget(report: RobustnessReport, attack: Attack) -> float:
    """Return the budget that the report states for this attack, or else for one of its kind; else the attack's own."""
    kind = [row for row in _of_kind(report.rows(), attack) if row.budget > 0]
    return next((row.budget for row in sorted(kind, key=lambda row: row.attack != attack.name)), attack.budget)


def _of_kind(rows: Sequence[Score], attack: Attack) -> list[Score]:
    """Return the rows of patches or of perturbations, for all images or for each, whichever the attack makes."""
    each = isinstance(attack, SampleWiseAttack)
    return [row for row in rows if row.is_patch == attack.is_patch and (row.crafting_data == "test") == each]


def _compared(
    target: _Target, report: RobustnessReport, attack: Attack, column: Knowledge, apply: Callable[[Tensor], Tensor]
) -> Item:
    return _counted(
        target, report, attack, column, ((apply(pixels), labels) for pixels, labels in target.sample.batches())
    )


def _counted(target: _Target, report: RobustnessReport, attack: Attack, column: Knowledge, batches: Any) -> Item:
    """Count what weights and file get right, and compare with the strongest row of that knowledge and threat.

    One attack is lucky or not. What a report promises is that nothing of its kind does more than its strongest row.
    """
    by_weights, by_file = 0, 0
    for pixels, labels in batches:
        by_weights += int((target.weights.predict(pixels) == labels).sum())
        by_file += int((target.graph(pixels).argmax(dim=1) == labels).sum())
    n = len(target.sample)
    rows = [row for row in _of_kind(report.rows(column), attack) if math.isclose(row.budget, attack.budget)]
    strongest = min(rows, key=lambda row: row.accuracy, default=None)
    agrees = abs(by_weights - by_file) <= tolerance(n)
    found = f"{by_file} of {n} right ({by_file / n:.1%}) by the file, {by_weights} by the weights"
    said = "no such row"
    if strongest is not None:
        agrees &= not target.same_data or by_file / n >= _least(strongest, n)
        own = min((row for row in rows if row.attack == attack.name), key=lambda row: row.accuracy, default=None)
        named = [(strongest, f" by {strongest.attack}")] if own is None else [(own, "")]
        if own is not None and own.accuracy > strongest.accuracy:
            named.append((strongest, f" by {strongest.attack}, the strongest"))
        said = "; ".join(f"{row.accuracy:.1%} of {row.n}{by}" for row, by in named)
        said += "" if target.same_data else ", on other images"
    return Item(f"fresh: {column} {attack.name}, {attack.threat.text()}", Outcome.ATTACKED, agrees, said, found)


def _least(row: Score, n: int) -> float:
    """Return the lowest accuracy on ``n`` images that chance and luck allow under what a row states."""
    share = row.accuracy
    return share - MARGIN - 1.96 * math.sqrt(max(share * (1 - share), 0.25 / max(row.n, n)) * (1 / row.n + 1 / n))
