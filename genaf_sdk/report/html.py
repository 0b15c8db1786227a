"""The report as one HTML page that loads nothing: for the reader who decides whether to trust the model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError
from markupsafe import Markup

from genaf_sdk.errors import OutputError
from genaf_sdk.report import figures, tables
from genaf_sdk.report.gallery import draw_gallery
from genaf_sdk.report.verdict import COLUMNS, budget_text
from genaf_sdk.terminal import printable

if TYPE_CHECKING:
    from genaf_sdk.report.robustness import RobustnessReport

TEMPLATES = Path(__file__).with_name("templates")


def html_report(report: RobustnessReport) -> str:
    """Return the report as a self-contained HTML page.

    Nothing is measured here: the page follows from the report alone (with its perturbations, for the gallery), and the
    same report gives the same bytes. Strings of the report are escaped; what the report lacks is said in its place.

    Raises:
        OutputError: A section of the report is damaged.
    """
    template = _template()
    try:
        page = printable(template.render(_content(report)))
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, OSError, TemplateError) as error:
        raise OutputError(
            f"The report cannot be shown, as a section is damaged: {error!r}.",
            expected="a report.json of this package, see report/schema.json",
        ) from error
    return page


def _content(report: RobustnessReport) -> dict[str, Any]:
    sections = report.sections
    return {
        "report": report,
        "models": tables.models_of(report),
        "columns": COLUMNS,
        "knowledge": tables.KNOWLEDGE,
        "warned": any(not check.passed for check in report.checks),
        "summary": tables.summary_rows(report),
        "attacks": tables.attack_rows(report),
        "curve": figures.curve_chart(report),
        "gallery": draw_gallery(report),
        "class_rows": tables.class_rows(report),
        "listed_classes": tables.LISTED_CLASSES,
        "confusions": tables.confusions(report),
        "layers": tables.layer_rows(report),
        "radius": (sections.get("config") or {}).get("sensitivity", {}).get("radius"),
        "estimated": (sections.get("config") or {}).get("sensitivity", {}).get("method") == "fast",
        "adaptation": sections.get("adaptation") or {},
        "training": figures.training_charts(report),
        "guard": figures.guard_chart(report),
        "seconds": sections.get("seconds") or {},
        "cost": tables.cost_rows(report),
        "throughput": tables.throughput(report),
        "model": sections.get("model") or {},
        "onnx": sections.get("onnx") or {},
        "settings": tables.flat(sections.get("config") or {}),
    }


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.filters["drawn"] = Markup  # SVG that this package drew; it holds no string of the report
    environment.globals["key"] = figures.key
    environment.globals["budget_text"] = budget_text
    environment.globals["css"] = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))  # noqa: S704  # own file
    return environment.get_template("report.html")
