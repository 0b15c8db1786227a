"""Parts of a bundle that follow from one another: names, page, card, report, budgets, server."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from genaf_sdk._version import __version__
from genaf_sdk.export.card import ModelFacts, eval_results, model_card
from genaf_sdk.export.layout import (
    CARD_FILE,
    CONFIG_FILE,
    EVAL_RESULTS_FILE,
    HTML_FILE,
    LABELS_FILE,
    MODEL_FILE,
    REPORT_FILE,
    SERVE_FOLDER,
)
from genaf_sdk.export.outcome import Item, not_replayed, recomputed
from genaf_sdk.export.parity import parity_text
from genaf_sdk.files import read_json
from genaf_sdk.inputs.images import Interpolation
from genaf_sdk.models.checksums import digest
from genaf_sdk.models.classifier import describe_architecture
from genaf_sdk.report.html import html_report
from genaf_sdk.report.provenance import settings_digest
from genaf_sdk.report.reading import Length, read_document
from genaf_sdk.report.sections import Side
from genaf_sdk.settings import Between

if TYPE_CHECKING:
    from genaf_sdk.data import DataSplits
    from genaf_sdk.export.runtime import OnnxModel
    from genaf_sdk.models.classifier import Classifier
    from genaf_sdk.report.robustness import RobustnessReport

DRAWING = re.compile(r"<svg.*?</svg>|data:image/png;base64,[A-Za-z0-9+/=]+", re.DOTALL)
"""What libraries of other versions draw and compress differently."""


@dataclass(frozen=True)
class ConfigFile:
    """What ``config.json`` says of the model, as far as other files say it, too.

    Args:
        genaf_sdk: Version that wrote it.
        encoder: Id of the encoder; empty for a module of the user's own.
        channels: Of an image.
        image_size: (H, W).
        class_names: In the order of the logits.
        interpolation: How images are resized.
    """

    open: ClassVar[bool] = True

    genaf_sdk: str
    encoder: str
    channels: Annotated[int, Between(1, 64)]
    image_size: tuple[Side, Side]
    class_names: Annotated[list[str], Length(2, 100_000)]
    interpolation: Interpolation = "bilinear"


def read_config(folder: Path) -> ConfigFile:
    """Read ``config.json``.

    Raises:
        OutputError: It is missing, or does not say what it should.
    """
    return read_document(ConfigFile, read_json(folder / CONFIG_FILE), CONFIG_FILE)


def check_names(folder: Path, config: ConfigFile, graphs: dict[str, OnnxModel], report: RobustnessReport) -> list[Item]:
    """Compare class names, sizes and channels in every file that states them."""
    names = config.class_names
    stated: dict[str, object] = {LABELS_FILE: read_json(folder / LABELS_FILE), REPORT_FILE: report.data.class_names}
    items = [_same(f"class names in {file}", found, names) for file, found in stated.items()]
    shape = (config.channels, *config.image_size)
    items.append(_same("image shape in the report", report.data.image_shape, shape))
    if report.model is not None:
        encoder = report.model.encoder  # of a module of the publisher's own, its class
        same = encoder == config.encoder if config.encoder else encoder.isidentifier()
        wanted = config.encoder or "the class of a module: config.json names no encoder"
        items.append(recomputed("encoder in the report", same, _short(encoder), "" if same else _short(wanted)))
        sizes = [report.model.channels, *report.model.image_size, report.model.classes]
        items.append(_same("sizes of the model in the report", sizes, [*shape, len(names)]))
    for file, graph in graphs.items():
        meta = graph.metadata
        items.append(_same(f"class names in {file}", _json(meta.get("class_names", "")), names))
        size = [_json(meta.get("channels", "")), *(_json(meta.get("image_size", "")) or [])]
        items.append(_same(f"image shape in {file}", size, list(shape)))
        items.append(_same(f"interpolation in {file}", meta.get("interpolation", "bilinear"), config.interpolation))
    return items


def check_parameters(model: Classifier, report: RobustnessReport) -> Item:
    """Count the parameters of the model in the bundle."""
    stated = None if report.model is None else report.model.parameters
    return _same("parameters of the model in the report", stated, describe_architecture(model)["parameters"])


def check_data(data: DataSplits, config: ConfigFile, report: RobustnessReport) -> list[Item]:
    """Compare names and shape with those of the verifier's data."""
    shape = (config.channels, *config.image_size)
    return [
        _same("class names, against the data", config.class_names, list(data.class_names)),
        _same("image shape, against the data", shape, tuple(data.image_shape)),
        _same("interpolation, against the report's data", config.interpolation, report.data.interpolation),
    ]


def check_sizes(data: DataSplits, report: RobustnessReport) -> list[Item]:
    """Compare how many images the report says there are with the data that it was made with."""
    sizes, counts = report.data.sizes, report.data.class_counts
    items = [_same("number of images", vars(sizes), {name: len(split) for name, split in data.splits().items()})]
    return items if counts is None else [*items, _same("training images by class", counts, data.class_counts())]


def check_provenance(report: RobustnessReport) -> list[Item]:
    """Hold the hashes of data and settings against what the report says of both; older reports state none."""
    stated = report.provenance
    if stated is None:
        return []
    encoder = None if report.model is None else report.model.encoder
    settings = None if report.config is None else settings_digest(report.config)
    return [
        _same("encoder, as in the model", stated.encoder, encoder),
        _same("data by hash", stated.data_sha256, report.data.fingerprint),
        _same("settings by hash", stated.settings_sha256, settings),
    ]


def check_report(content: Any, report: RobustnessReport) -> list[Item]:
    """Write the report anew from its own rows and compare: verdict, limits, shares, intervals."""
    again = json.loads(json.dumps(report.to_dict()))
    stated = content if isinstance(content, dict) else {}
    items = [
        recomputed(name, stated.get(name) == again[name], _short(stated.get(name)), _short(again[name]))
        for name in ("verdict", "limits")
    ]
    for name in ("scores", "curve", "certificate", "corruptions"):
        if name not in again:
            continue
        same = _close(stated.get(name), again[name])
        items.append(
            recomputed(f"shares and intervals of {name}", same, "", "" if same else "they do not follow from counts")
        )
    unknown = sorted(set(stated) - set(again))
    items += [not_replayed(f"section {name!r} of the report", "", "this version does not know it") for name in unknown]
    return items


def check_exported(folder: Path, report: RobustnessReport) -> list[Item]:
    """Hold what the report says of the exported files against its own figures and counts, and against their sizes."""
    section = report.onnx
    if section is None:
        return []
    text = parity_text(section.parity.differences, section.parity.tolerance)
    items = [_same("parity in words", section.text, text)]
    full = {row.perturbation: row.correct / row.n for row in section.replay}
    wanted = sorted({"", *report.perturbations})
    for file, rows in {MODEL_FILE: section.replay, **{v.file: v.replay for v in section.variants}}.items():
        follow = all(math.isclose(row.accuracy, row.correct / row.n) for row in rows)
        items.append(recomputed(f"shares of {file}", follow, "", "" if follow else "they do not follow from counts"))
        rows_of = sorted(row.perturbation for row in rows)
        items.append(_same(f"what {file} was put under", rows_of, wanted))
    for variant in section.variants:
        losses = [full.get(row.perturbation, 1.0) - row.correct / row.n for row in variant.replay]
        found = max(losses, default=1.0)
        follows = math.isclose(variant.largest_loss, found, abs_tol=1e-12)
        items.append(
            recomputed(f"largest loss of {variant.file}", follows, f"{variant.largest_loss:.4f}", f"{found:.4f}")
        )
        path = folder / variant.file
        if not variant.written and path.exists():
            items.append(recomputed(f"{variant.file}", False, "not written", "it is in the bundle"))
        if variant.written and path.is_file():  # one that is missing is told where it would have been replayed
            items.append(_same(f"bytes of {variant.file}", variant.bytes, path.stat().st_size))
    return items


def _close(stated: Any, again: Any) -> bool:
    """Whether every number that is stated follows; what an older version did not state is passed over."""
    if isinstance(again, list):
        return isinstance(stated, list) and len(stated) == len(again) and all(map(_close, stated, again))
    if isinstance(again, dict):
        return isinstance(stated, dict) and all(_close(value, again.get(name)) for name, value in stated.items())
    if isinstance(again, float) and isinstance(stated, (int, float)):
        return math.isclose(stated, again, rel_tol=1e-9, abs_tol=1e-12)
    return bool(stated == again)


def facts_of(config: ConfigFile, report: RobustnessReport | None) -> ModelFacts:
    """Return what the card says of the model, from the bundle's own files."""
    encoder = config.encoder or (report.model.encoder if report is not None and report.model is not None else "")
    names = tuple(config.class_names)
    return ModelFacts(encoder, config.channels, config.image_size, names, config.interpolation, config.genaf_sdk)


def check_page(folder: Path, config: ConfigFile, report: RobustnessReport) -> list[Item]:
    """Write page, card and ``.eval_results`` anew from the report and compare."""
    if config.genaf_sdk != __version__:
        why = f"written by genaf-sdk {config.genaf_sdk}, this is {__version__}"
        return [not_replayed(name, "", why) for name in (HTML_FILE, CARD_FILE, EVAL_RESULTS_FILE)]
    export = (report.config or {}).get("export")
    license_id = export.get("license", "") if isinstance(export, dict) else ""
    written = {CARD_FILE: model_card(facts_of(config, report), report, license_id=str(license_id))}
    results = eval_results(report)
    if results is not None or (folder / EVAL_RESULTS_FILE).exists():
        written[EVAL_RESULTS_FILE] = results or ""
    items = [_same_text(folder / name, name, text) for name, text in written.items()]
    return [_page(folder, report), *items]


def _page(folder: Path, report: RobustnessReport) -> Item:
    again, stated = html_report(report), _text(folder / HTML_FILE)
    if stated == again:
        return recomputed(HTML_FILE, True, "", "the page that follows from the report")
    others = [name for name in ("matplotlib", "pillow") if report.versions.get(name) != _version(name)]
    if others and DRAWING.sub("", stated) == DRAWING.sub("", again):
        return not_replayed(f"drawings in {HTML_FILE}", "", f"drawn by another {' and '.join(others)}; all else agrees")
    return recomputed(HTML_FILE, False, "", "it is not the page that follows from the report")


def check_server(folder: Path, config: ConfigFile) -> list[Item]:
    """Compare ``serve/`` with this package's own copy; what differs is the publisher's code."""
    own = Path(__file__).parent / SERVE_FOLDER
    ours = {path.relative_to(own).as_posix(): digest(path) for path in own.rglob("*") if _is_source(path)}
    theirs = {
        p.relative_to(folder / SERVE_FOLDER).as_posix(): digest(p)
        for p in (folder / SERVE_FOLDER).rglob("*")
        if p.is_file()
    }
    if ours == theirs:
        return [recomputed(f"{SERVE_FOLDER}/", True, "", "the server of this version")]
    if config.genaf_sdk == __version__:
        return [recomputed(f"{SERVE_FOLDER}/", False, f"the server of genaf-sdk {__version__}", "other code")]
    why = f"the publisher's code (genaf-sdk {config.genaf_sdk}): serve with `genaf serve` instead"
    return [not_replayed(f"{SERVE_FOLDER}/", "", why)]


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _same_text(path: Path, name: str, expected: str) -> Item:
    same = _text(path) == expected
    return recomputed(name, same, "", "follows from the report" if same else "does not follow from the report")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _same(what: str, stated: object, expected: object) -> Item:
    return recomputed(what, stated == expected, _short(stated), "" if stated == expected else _short(expected))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
