"""Hold a bundle against itself and against data: what was replayed, what follows, and what could not be looked at.

Whoever writes a bundle writes its checksums, too. So a verification shows damage and mismatch between the parts of a
bundle, and whether its accuracies are those of its model on the verifier's data; it does not show who made it.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.data.alignment import aligned
from genaf_sdk.data.sampling import Sample
from genaf_sdk.encoders import build_backbone
from genaf_sdk.errors import DataError, ExportError
from genaf_sdk.export.bill import check_bill
from genaf_sdk.export.consistency import (
    check_data,
    check_exported,
    check_names,
    check_page,
    check_parameters,
    check_provenance,
    check_report,
    check_server,
    check_sizes,
    read_config,
)
from genaf_sdk.export.layout import CARD_FILE, MODEL_FILE, REPORT_FILE, SERVE_FOLDER, is_ours, model_files
from genaf_sdk.export.outcome import Item, Verification, not_replayed, recomputed, replayed
from genaf_sdk.export.parity import predictions
from genaf_sdk.export.perturbed import check_perturbations
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.ties import check_ties, trial_images
from genaf_sdk.files import read_json
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.models.checksums import check_whole
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.storage import load_classifier
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role, is_universal, lowest_accuracy, wilson_interval

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genaf_sdk.data import DataSplits
    from genaf_sdk.inputs.perturbation import Perturbation
    from genaf_sdk.report.exported import ReplayRow, VariantSection
    from genaf_sdk.report.scores import Check, Score
    from genaf_sdk.report.sections import ClassCounts

UNLOOKED = {
    "history": "training is not repeated",
    "range_tests": "training is not repeated",
    "sensitivity": "it was measured between the stages of training",
    "adaptation": "it was measured between the stages of training",
    "seconds": "times are of the publisher's machine",
    "cost": "memory and energy are of the publisher's machine",
    "versions": "the publisher's machine",
    "notes": "what the publisher's run met",
    "data.notes": "what the publisher's data looked like when it was read",
    "onnx.parity": "its images are not in the bundle; weights and file were compared on others",
}
"""Sections of a report that are believed or not, and why."""
LEAST_IMAGES = 100
"""Rows of fewer images (where the data has so many) could be picked to flatter."""


def verify_bundle(
    folder: str | Path, data: DataSplits, *, backbone: nn.Module | None = None, foreign_data: bool = False
) -> Verification:
    """Hold a bundle against itself and against the verifier's data.

    Checksums come first, and no file may be unlisted. Then perturbations are held against what they may do, names and
    weights and graphs against one another, page, card and verdict against the report, and every row that left a
    perturbation is measured again by ``model.onnx`` with onnxruntime, on the verifier's images: counts are compared,
    not intervals. What cannot be measured again is listed as such.

    Args:
        folder: What ``harden(..., output_dir=...)`` left.
        data: The verifier's images, loaded as the model takes them.
        backbone: The encoder's architecture, needed only for a module of the publisher's own: without it
            ``model.safetensors`` is not compared.
        foreign_data: Whether other images than the report's will do; no row is replayed then.

    Returns:
        One item for everything that the bundle states.

    Raises:
        DataError: These are not the images that the report was made with, and ``foreign_data`` is not set.
        ExportError: A file is missing, damaged, not listed, or cannot be run; or the report has no row.
        OutputError: A file does not hold what it should.
    """
    folder = Path(folder)
    names = check_whole(folder)
    report = RobustnessReport.load(folder)
    config = read_config(folder)
    if not report.rows() or MODEL_FILE not in names:
        raise ExportError(
            f"{folder} has no rows or no {MODEL_FILE} to replay.", expected="the bundle as it was written"
        )
    items = [recomputed("files", True, f"{len(names)} listed", "each is as it was written; none is unlisted")]
    items += [
        not_replayed(name, "listed", "no part of a bundle that this version knows")
        for name in names
        if not (is_ours(name) or name == CARD_FILE or name.startswith(f"{SERVE_FOLDER}/"))
    ]
    graphs = {name: OnnxModel(folder / name) for name in model_files(names)}
    data = aligned(data, config.class_names, model="the bundle")
    items += check_names(folder, config, graphs, report)
    items += check_data(data, config, report)
    items += check_perturbations(report)
    fitting = {n: p for n, p in report.perturbations.items() if tuple(p.values.shape) == tuple(data.image_shape)}
    sample = Sample.draw(data.test, None, seed=report.seed)
    images = trial_images(sample, fitting)
    loaded: list[Classifier] = []

    def load() -> Classifier:
        loaded.append(load_classifier(folder, Classifier, build_backbone, backbone=backbone))
        return loaded[0]

    items += check_ties(graphs, load, images, named=bool(config.encoder))
    items += [check_parameters(model, report) for model in loaded if report.model is not None]
    same = _same_data(data, report, foreign=foreign_data)
    items += check_sizes(data, report) if same else []
    items += _replayed(graphs, report, data, sample, fitting) if same else _all_unknown(report, "other images")
    items += check_provenance(report)
    items += check_bill(folder, report)
    items += check_report(read_json(folder / REPORT_FILE), report)
    items += check_exported(folder, report)
    items += _unlooked(report)
    items += check_page(folder, config, report)
    items += check_server(folder, config)
    return Verification(items)


def _same_data(data: DataSplits, report: RobustnessReport, *, foreign: bool) -> bool:
    found = data.fingerprint
    if found == report.data.fingerprint:
        return True
    if foreign:
        return False
    raise DataError(
        f"The data {data.name!r} has the fingerprint {found[:12]}, the report's has {report.data.fingerprint[:12]}.",
        expected=f"the images of {report.data.name!r} in the same splits and at the same size",
        remedy="with --fresh, images of your own will do",
    )


def _replayed(
    graphs: dict[str, OnnxModel],
    report: RobustnessReport,
    data: DataSplits,
    sample: Sample,
    perturbations: dict[str, Perturbation],
) -> list[Item]:
    """Measure every graph once on all test images, and compare with what the report says of them, or of some."""
    items: list[Item] = []
    predicted = {name: predictions(graph, sample, perturbations) for name, graph in graphs.items()}
    right = {name: {key: found == sample.labels for key, found in p.items()} for name, p in predicted.items()}
    items += [_row(score, right[MODEL_FILE], predicted[MODEL_FILE], len(data.test)) for score in report.scores]
    items += _curve(report, items, right[MODEL_FILE][""])
    items += _classes(report, predicted[MODEL_FILE], sample, len(data.class_names))
    if report.onnx is not None:
        written = [variant for variant in report.onnx.variants if variant.written]
        for file, rows in {MODEL_FILE: report.onnx.replay, **{v.file: v.replay for v in written}}.items():
            items += [_graph_row(file, row, right.get(file)) for row in rows]
        items += [_agreement(variant, predicted) for variant in written]
        items += [
            not_replayed(f"{variant.file}", "not written", "it is not in the bundle")
            for variant in report.onnx.variants
            if not variant.written
        ]
    items += [
        not_replayed(f"check: {check.name}", _passed(check), "checks need gradients and attacks")
        for check in report.checks
    ]
    if report.gallery is not None:
        items.append(not_replayed("gallery", f"{len(report.gallery.images)} images", "its pictures are for people"))
    return items


def _row(score: Score, right: dict[str, Tensor], predicted: dict[str, Tensor], total: int) -> Item:
    what = " ".join(part for part in (str(score.model), str(score.column), score.attack) if part)
    stated = f"{score.correct} of {score.n} right ({score.accuracy:.1%})"
    if score.model != Role.HARDENED:
        return not_replayed(what, stated, "the baseline is not in the bundle")
    said = f"{score.changed} of {score.n} predictions changed"
    if score.column != Knowledge.CLEAN and not score.perturbation:
        without = int(right[""][: score.n].sum())
        if score.n > total or score.correct > without + tolerance(score.n):
            return recomputed(what, False, stated, f"more than without an attack: {without} of {min(score.n, total)}")
        if score.changed + tolerance(score.n) < without - score.correct:
            lost = without - score.correct
            return recomputed(what, False, said, f"{lost} are no longer right, and each of them has changed")
        return not_replayed(what, stated, "it left no perturbation; --fresh attacks anew")
    if score.perturbation not in right:
        return replayed(what, False, stated, f"there is no perturbation {score.perturbation!r} to replay")
    counted = _counted(what, stated, score.correct, score.n, right[score.perturbation], total)
    changed = int((predicted[score.perturbation] != predicted[""])[: score.n].sum())
    if counted.agrees and abs(changed - score.changed) > 2 * tolerance(score.n):
        return replayed(what, False, said, f"{changed} have changed")
    return counted


def _counted(what: str, stated: str, correct: int, n: int, right: Tensor, total: int) -> Item:
    """Compare a count; where it is of some images only, those of all have to fit in its interval, too."""
    if n > total or n < min(LEAST_IMAGES, total):
        return replayed(
            what, False, stated, f"n is {n}; at least {min(LEAST_IMAGES, total)} and at most {total} are wanted"
        )
    found, everything = int(right[:n].sum()), int(right.sum())
    text = f"{found} of {n}" + (f"; {everything} of all {total} ({everything / total:.1%})" if n < total else "")
    agrees = abs(found - correct) <= tolerance(n)
    if n < total:
        low, high = wilson_interval(correct, n)
        margin = 1.96 * math.sqrt(0.25 / total)
        agrees &= low - margin <= everything / total <= high + margin
    return replayed(what, agrees, stated, text)


def tolerance(n: int) -> int:
    """Return by how many of ``n`` images a replay may differ: processors round differently."""
    return 1 + n // 500


def _graph_row(file: str, row: ReplayRow, right: dict[str, Tensor] | None) -> Item:
    what = f"{file} under {row.perturbation or 'no perturbation'}"
    stated = f"{row.correct} of {row.n} right"
    if right is None or row.perturbation not in right:
        return replayed(what, False, stated, "the file or the perturbation is not in the bundle")
    total = len(right[""])
    return _counted(what, stated, row.correct, row.n, right[row.perturbation], total)


def _agreement(variant: VariantSection, predicted: dict[str, dict[str, Tensor]]) -> Item:
    """Compare on how many clean images a variant says what ``model.onnx`` says; either may round differently."""
    what, stated = f"agreement of {variant.file} with {MODEL_FILE}", f"{variant.agreement:.2%}"
    n = next((row.n for row in variant.replay if not row.perturbation), 0)
    if variant.file not in predicted or not n:
        return replayed(what, False, stated, "the file or its row without a perturbation is missing")
    alike = predicted[variant.file][""][:n] == predicted[MODEL_FILE][""][:n]
    apart = abs(int(alike.sum()) - variant.agreement * n)
    return replayed(what, apart <= 2 * tolerance(n), stated, f"{int(alike.sum())} of {n}")


def _curve(report: RobustnessReport, rows: list[Item], clean: Tensor) -> list[Item]:
    """A point that belongs to a replayed row has its count; of the others, only what no attack leaves is refused.

    One perturbation that transfers may leave more right than ``clean`` images do, by chance.
    """
    items = []
    for point in report.curve:
        what = f"curve: {point.model} {point.column} {point.attack} at {point.budget * 255:.3g}/255"
        stated = f"{point.correct} of {point.n} right"
        without = int(clean[: point.n].sum())
        twins = [
            item
            for score, item in zip(report.scores, rows, strict=True)
            if (score.model, score.column, score.attack, score.crafting_data)
            == (point.model, point.column, point.attack, "train")
            and math.isclose(score.budget, point.budget)
            and (score.correct, score.n) == (point.correct, point.n)
            and item.agrees is not None
        ]
        if twins:
            items.append(recomputed(what, bool(twins[0].agrees), stated, "a row of the table"))
        elif point.model == Role.HARDENED and (
            point.n > len(clean)
            or (point.column == Knowledge.WHITE_BOX and point.correct > without + tolerance(point.n))
        ):
            items.append(recomputed(what, False, stated, f"more than without an attack: {without} of {len(clean)}"))
        else:
            items.append(not_replayed(what, stated, "it left no perturbation"))
    return items


def _classes(report: RobustnessReport, predicted: dict[str, Tensor], sample: Sample, classes: int) -> list[Item]:
    items: list[Item] = []
    for model, counts in (report.classes or {}).items():
        if model != Role.HARDENED:
            items.append(not_replayed(f"classes of the {model} model", "", "the baseline is not in the bundle"))
            continue
        n = sum(counts.n)
        labels = sample.labels[:n]
        for kind, stated, name in (("clean", counts.clean, ""), ("attacked", counts.attacked, counts.perturbation)):
            if stated is None:
                continue
            if n > len(sample):
                items.append(replayed(f"classes, {kind}", False, f"{sum(stated)} of {n}", f"n is {n} of {len(sample)}"))
                continue
            right = labels[predicted[name][:n] == labels] if name in predicted else labels[:0]
            found = right.bincount(minlength=classes).tolist()
            off = sum(abs(one - other) for one, other in zip(found, stated, strict=True))
            same = counts.n == labels.bincount(minlength=classes).tolist() and off <= tolerance(n)
            items.append(
                replayed(f"classes, {kind}", same, f"{sum(stated)} of {n}", f"{sum(found)}, {off} apart by class")
            )
        if counts.attacked is not None and n <= len(sample):
            items += [_strongest(report, counts), _confusions(counts, predicted.get(counts.perturbation), labels)]
    return items


def _strongest(report: RobustnessReport, counts: ClassCounts) -> Item:
    """Hold the attack that the classes are counted under against the rows: it has to be the strongest of its kind."""
    lowest = lowest_accuracy(row for row in report.rows() if is_universal(row))
    named = (counts.column, counts.attack, counts.perturbation)
    follows = lowest is not None and any(
        (row.column, row.attack, row.perturbation) == named and row.accuracy == lowest.accuracy for row in report.rows()
    )
    wanted = "no universal attack" if lowest is None else f"{lowest.column} {lowest.attack}"
    return recomputed("classes, under which attack", follows, f"{counts.column} {counts.attack}", wanted)


def _confusions(counts: ClassCounts, predicted: Tensor | None, labels: Tensor) -> Item:
    """Count again which class was taken for which, and how many images the list leaves out."""
    what, stated = "classes, confusions", sum(pair.count for pair in counts.confusions)
    if predicted is None:
        return replayed(what, False, f"{stated} wrong", "there is no such perturbation to replay")
    wrong = predicted[: len(labels)] != labels
    found = Counter(zip(labels[wrong].tolist(), predicted[: len(labels)][wrong].tolist(), strict=True))
    listed = Counter({(pair.true, pair.predicted): pair.count for pair in counts.confusions})
    off = sum(abs(found[pair] - count) for pair, count in listed.items())
    off += abs(sum(count for pair, count in found.items() if pair not in listed) - counts.omitted)
    agrees = off <= 2 * tolerance(len(labels)) and len(listed) == len(counts.confusions)
    said = f"{stated + counts.omitted} wrong"
    return replayed(what, agrees, said, f"{found.total()}, {off} apart by pair")


def _unlooked(report: RobustnessReport) -> list[Item]:
    """List the sections that nothing in the bundle could confirm."""
    sections = vars(report) | {"data.notes": report.data.notes, "onnx.parity": report.onnx and report.onnx.parity}
    return [not_replayed(f"section {name!r}", "", why) for name, why in UNLOOKED.items() if sections[name]]


def _all_unknown(report: RobustnessReport, why: str) -> list[Item]:
    rows = [f"{s.model} {s.column} {s.attack}".strip() for s in report.scores]
    rows += [f"curve: {p.model} {p.column} {p.attack} at {p.budget * 255:.3g}/255" for p in report.curve]
    return [not_replayed(what, "", why) for what in [*rows, *(f"check: {check.name}" for check in report.checks)]]


def _passed(check: Check) -> str:
    return "passed" if check.passed else "failed"
