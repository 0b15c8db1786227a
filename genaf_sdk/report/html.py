"""The report as one HTML page that loads nothing: for the reader who decides whether to trust the model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from genaf_sdk.report import figures, tables
from genaf_sdk.report.gallery import draw_gallery
from genaf_sdk.report.verdict import budget_text, headline, limits, verdict
from genaf_sdk.terminal import printable

if TYPE_CHECKING:
    from genaf_sdk.report.data import Report

TEMPLATES = Path(__file__).with_name("templates")


def html_report(report: Report) -> str:
    """Return the report as a self-contained HTML page.

    Nothing is measured here: the page follows from the report alone (with its perturbations, for the gallery), and the
    same report gives the same bytes. Strings of the report are escaped; what the report lacks is said in its place.

    Raises:
        OutputError: A picture of the gallery cannot be read.
    """
    return printable(_template().render(_content(report)))


def _content(report: Report) -> dict[str, Any]:
    sensitivity = _settings_of(report, "method", "adaptability", "sensitivity") or _settings_of(report, "sensitivity")
    radius = sensitivity.get("radius")
    return {
        "report": report,
        "verdict": _parts(report),
        "limits": limits(report),
        "models": tables.models_of(report),
        "knowledge": tables.KNOWLEDGE,
        "warned": bool(report.failures) or any(not check.passed for check in report.checks),
        "summary": tables.summary_rows(report),
        "attacks": tables.attack_rows(report),
        "curve": figures.curve_chart(report),
        "gallery": draw_gallery(report),
        "class_rows": tables.class_rows(report),
        "listed_classes": tables.LISTED_CLASSES,
        "confusions": tables.confusions(report),
        "layers": tables.layer_rows(report),
        "radius": radius if isinstance(radius, float) else None,
        "estimated": sensitivity.get("method") == "fast",
        "training": figures.training_charts(report),
        "guard": figures.guard_chart(report),
        "seconds": report.seconds or {},
        "cost": tables.cost_rows(report),
        "throughput": tables.throughput(report),
        "settings": tables.flat(report.config or {}),
    }


def _parts(report: Report) -> tuple[str, str]:
    """Return the verdict up to its headline, which is shown large, and what follows."""
    before, first, rest = verdict(report).partition(headline(report))
    return before + first, rest.strip()


def _settings_of(report: Report, *path: str) -> dict[str, Any]:
    """Return a group of settings; empty where the report has none, as of an older or another kind of run."""
    found: Any = report.config or {}
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _with_commands(text: str) -> Markup:
    """Return text, escaped, whose parts between backticks are set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


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
    environment.filters["breakable"] = lambda name: Markup("_<wbr>").join(name.split("_"))
    environment.filters["with_commands"] = _with_commands
    environment.filters["drawn"] = Markup  # SVG that this package drew; no string of the report is in it
    environment.globals["key"] = figures.key
    environment.globals["budget_text"] = budget_text
    environment.globals["css"] = Markup((TEMPLATES / "report.css").read_text(encoding="utf-8"))  # noqa: S704  # own file
    return environment.get_template("report.html")
