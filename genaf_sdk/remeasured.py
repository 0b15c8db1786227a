"""Certificates, corruptions and gallery of a bundle made again: the verifier's images, by the file that is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from genaf_sdk._version import __version__
from genaf_sdk.data.corruptions import CORRUPTIONS
from genaf_sdk.data.sampling import Sample
from genaf_sdk.evaluation.certificates import certify
from genaf_sdk.evaluation.corrupted import corruption_section
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.pictures import chosen_images
from genaf_sdk.evaluation.settings import CertificateConfig
from genaf_sdk.export.outcome import Item, not_replayed, recomputed, replayed
from genaf_sdk.export.runtime import OnnxModel
from genaf_sdk.export.verify import LEAST_IMAGES, tolerance
from genaf_sdk.report.gallery import reduced, stored_images
from genaf_sdk.report.scores import Role, is_universal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from genaf_sdk.data import DataSplits
    from genaf_sdk.report.certificate import CertificateSection
    from genaf_sdk.report.corruptions import CorruptionRow, CorruptionSection
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.sections import GallerySection

PICTURE_TOLERANCE = 2 / 255
"""Pictures are stored in 256 gray levels, and reduced by libraries that round otherwise."""


def replayed_beside(folder: Path, report: RobustnessReport, data: DataSplits) -> list[Item]:
    """Certify the ONNX file anew, corrupt the images again, and look at the gallery: all as in the report, or not.

    Args:
        folder: A bundle's folder.
        report: Its report.
        data: The verifier's images, their classes in the order of the model's.
    """
    certificate, corruptions = report.certificate, report.corruptions
    if certificate is None and corruptions is None and report.gallery is None:
        return []
    graph = OnnxModel(folder)
    items = [] if certificate is None else [_same_color(graph, certificate)]
    if data.fingerprint != report.data.fingerprint:
        stated = [] if certificate is None else ["certificate"]
        stated += [] if corruptions is None else [f"corruption: {row.kind}" for row in corruptions.of(Role.HARDENED)]
        stated += [] if report.gallery is None else ["gallery"]
        return items + [not_replayed(what, "", "other images") for what in stated]
    sample = Sample.draw(data.test, None, seed=report.seed)
    items += [] if certificate is None else [_certified_again(graph, certificate, sample)]
    items += [] if report.gallery is None else [_shown_again(graph, report, report.gallery, sample)]
    return items + ([] if corruptions is None else _corrupted_again(graph, corruptions, sample))


def _certified_again(graph: OnnxModel, stated: CertificateSection, sample: Sample) -> Item:
    if few := _too_few(stated.n, len(sample)):
        return replayed("certificate", False, f"{stated.certified} of {stated.n} certified", few)
    config = CertificateConfig(patch=stated.area, masks=stated.masks_per_axis, samples=stated.n)
    found = certify(graph, sample, config, tuple(stated.fill))
    apart = max(abs(getattr(found, name) - getattr(stated, name)) for name in ("clean", "answered", "certified"))
    agrees = apart <= tolerance(stated.n)
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


def _shown_again(graph: OnnxModel, report: RobustnessReport, stated: GallerySection, sample: Sample) -> Item:
    """Compare the gallery, which is what people look at: whose pictures these are, and what the file says of them."""
    n = max(row.n for row in report.rows())
    places = chosen_images(sample.labels[:n], (sample.shape[1], sample.shape[2]))
    images, labels = sample.at(places)
    what, shown = "gallery", f"{len(stated.images)} images"
    if [image.label for image in stated.images] != labels.tolist():
        if report.versions.get("genaf-sdk") != __version__:
            return not_replayed(what, shown, "another version chose them")
        return replayed(what, False, shown, "not the first of each class")
    pictures = stored_images(report)
    if not (pictures - torch.stack([reduced(image) for image in images])).abs().max() <= PICTURE_TOLERANCE:
        return replayed(what, False, shown, "other pictures than the test images of these classes")
    left_out = {row.perturbation for row in report.rows() if is_universal(row)} - set(stated.predictions)
    apart = 0
    for name, models in stated.predictions.items():
        if name and name not in report.perturbations:
            return replayed(what, False, shown, f"there is no perturbation {name!r} to show")
        said = graph(report.perturbations[name].apply(images) if name else images).argmax(dim=1)
        apart += int((said != torch.tensor(models.get(Role.HARDENED, [-1] * len(images)))).sum())
    found = f"{apart} predictions differ" + (f"; left out: {', '.join(sorted(left_out))}" if left_out else "")
    return replayed(what, apart <= tolerance(len(images)) and not left_out, shown, found)


def _corrupted_again(graph: OnnxModel, stated: CorruptionSection, sample: Sample) -> list[Item]:
    rows = stated.of(Role.HARDENED)
    kinds = [row.kind for row in rows]
    apart = sorted({*kinds} ^ {*CORRUPTIONS}) or [kind for kind in CORRUPTIONS if kinds.count(kind) > 1]
    what, said = "kinds of corruption", f"not each of the {len(CORRUPTIONS)} once: {', '.join(apart)}" if apart else ""
    items = [recomputed(what, not apart, f"{len(kinds)} kinds", said)]
    if stated.of(Role.BASELINE):
        items.append(not_replayed("corruptions of the undefended model", "", "the baseline is not in the bundle"))
    if not rows:
        return items
    model, n = EvaluatedModel.of(graph, Role.HARDENED), max(row.n for row in rows)
    found = {row.kind: row for row in corruption_section([model], sample, n).rows}
    return items + [_corruption(row, found[row.kind], len(sample)) for row in rows if row.kind in found]


def _corruption(row: CorruptionRow, again: CorruptionRow, total: int) -> Item:
    """Compare counts: all together, and by strength, of which one must not pay for another."""
    stated, found = (f"{one.accuracy:.1%} of {one.n}: {', '.join(map(str, one.correct))}" for one in (row, again))
    apart = [one - other for one, other in zip(row.correct, again.correct, strict=True)]
    most, few = tolerance(5 * row.n), _too_few(row.n, total)
    agrees = row.n == again.n and abs(sum(apart)) <= most and sum(map(abs, apart)) <= 2 * most
    return replayed(f"corruption: {row.kind}", agrees and not few, stated, few or found)


def _too_few(n: int, total: int) -> str:
    """Say so where a figure is of fewer images than could be picked to flatter; empty where it is not."""
    least = min(LEAST_IMAGES, total)
    return f"n is {n}; at least {least} are wanted" if n < least else ""
