"""Charts as inline SVG: no pyplot, no clock, no random ids, colors left to the page's style sheet.

Matplotlib draws with stand-in colors, which are replaced by CSS variables; so one drawing serves the light, the dark
and the printed page. Names of series stand in the page's own legend: nothing but numbers and fixed words is drawn.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import Role, wilson_interval

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.report.data import Report
    from genaf_sdk.report.sections import EpochRecord

INK, MUTED, RULE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808")
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule"} | {
    color: f"--series-{index + 1}" for index, color in enumerate(SERIES)
}
MARKERS, DASHES = ("o", "s", "^", "D", "v"), ("-", "--", "-.", ":", "-")
SIZE = (5.2, 3.3)
"""Inches; narrow, so that a phone shows the text at nearly its size."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "genaf",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
}
WIDE_RANGE = 30  # losses further apart than this factor are drawn on a logarithmic scale


@dataclass(frozen=True)
class Chart:
    """One chart: what it shows, the SVG, and the names of its series in the order of the colors."""

    title: str
    svg: str
    series: list[str]


def curve_chart(report: Report) -> Chart | None:
    """Accuracy of the hardened model against the budget, one line a column, with 95 % bands; None without a curve."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for point in sorted(report.curve, key=lambda point: point.budget):
        if point.model == Role.HARDENED:
            lines.setdefault((point.column, point.attack), []).append(point)
    if not lines:
        return None
    clean = report.strongest_attack(Knowledge.CLEAN)
    start = [] if clean is None else [(0.0, clean.correct, clean.n)]

    def draw(axes: Any) -> None:
        ticks: set[float] = set()
        for index, points in enumerate(lines.values()):
            counts = start + [(round(point.budget * 255, 3), point.correct, point.n) for point in points]
            budgets = [budget for budget, _, _ in counts]
            ticks.update(budgets)
            bands = [wilson_interval(correct, n) for _, correct, n in counts]
            _line(axes, index, budgets, [100 * correct / n for _, correct, n in counts])
            low, high = ([100 * band[side] for band in bands] for side in (0, 1))
            axes.fill_between(budgets, low, high, color=_color(index), alpha=0.14, linewidth=0)
        _percent(axes)
        axes.set_xticks(sorted(ticks), [f"{budget:g}" for budget in sorted(ticks)])
        axes.set_xlabel("budget, gray levels of 255")

    return Chart("Accuracy against budget", _svg("curve", draw), [f"{column} ({attack})" for column, attack in lines])


def training_charts(report: Report) -> list[Chart]:
    """Return two charts for every stage of more than one epoch: accuracies and losses by epoch."""
    stages: dict[str, list[EpochRecord]] = {}
    for record in report.history or []:
        stages.setdefault(record.stage, []).append(record)
    charts: list[Chart] = []
    for stage, records in stages.items():
        if len(records) < 2:
            continue
        names = list(records[0].figures)
        accuracies = [name for name in names if name.endswith("accuracy")]
        losses = [name for name in names if name not in accuracies]
        for what, chosen, shape in (("accuracy", accuracies, _percent), ("loss", losses, _loss)):
            if chosen:
                svg = _svg(f"training-{len(charts)}", _history(records, chosen, shape))
                charts.append(Chart(f"{stage}: {what}", svg, [_spoken(name) for name in chosen]))
    return charts


def guard_chart(report: Report) -> Chart | None:
    """Validation accuracies between the weights of stage 1 and the fine-tuned ones; None without stage 2."""
    adaptation = report.adaptation
    if adaptation is None or not adaptation.points:
        return None
    shares = [100 * point.share for point in adaptation.points]

    def draw(axes: Any) -> None:
        axes.axvline(100 * adaptation.share, color=MUTED, linewidth=1.2)
        measured = [(p.clean_accuracy, p.universal_accuracy, p.sample_wise_accuracy) for p in adaptation.points]
        for index, accuracies in enumerate(zip(*measured, strict=True)):
            _line(axes, index, shares, [100 * accuracy for accuracy in accuracies])
        _percent(axes)
        axes.set_xlabel("share of the way to the fine-tuned weights, %")

    return Chart("Guard", _svg("guard", draw), ["clean", "universal perturbations", "sample-wise attack"])


def key(index: int) -> str:
    """Return the sample of a line for the legend, an inline SVG."""
    x, y, color = 14, 6, f"var({VARIABLES[_color(index)]})"
    look = index % len(MARKERS)
    shapes = {
        "o": f'<circle cx="{x}" cy="{y}" r="3.5"/>',
        "s": f'<rect x="{x - 3}" y="{y - 3}" width="6" height="6"/>',
        "^": f'<path d="M{x} {y - 4}l4 7h-8z"/>',
        "D": f'<path d="M{x} {y - 4}l4 4l-4 4l-4 -4z"/>',
        "v": f'<path d="M{x} {y + 4}l4 -7h-8z"/>',
    }
    dash = {"-": "none", "--": "6 3", "-.": "8 2 2 2", ":": "2 3"}[DASHES[look]]
    line = f'<path d="M0 {y}h28" fill="none" stroke-width="2" stroke-dasharray="{dash}"/>'
    return (
        f'<svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true" '
        f'style="stroke: {color}; fill: {color}; stroke-width: 0">{line}{shapes[MARKERS[look]]}</svg>'
    )


def _history(records: list[EpochRecord], names: list[str], shape: Callable[[Any], None]) -> Callable[[Any], None]:
    scale = 100 if shape is _percent else 1

    def draw(axes: Any) -> None:
        for index, name in enumerate(names):
            points = [(record.epoch, scale * record.figures[name]) for record in records if name in record.figures]
            _line(axes, index, [x for x, _ in points], [y for _, y in points])
        shape(axes)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)

    return draw


def _spoken(name: str) -> str:
    return {"loss": "total, weighted"}.get(name, name.replace("_", " ").removesuffix(" accuracy"))


def _line(axes: Any, index: int, x: list[float], y: list[float]) -> None:
    look = index % len(MARKERS)
    axes.plot(x, y, color=_color(index), marker=MARKERS[look], linestyle=DASHES[look], clip_on=False)


def _color(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _percent(axes: Any) -> None:
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")


def _loss(axes: Any) -> None:
    values = [value for line in axes.lines for value in line.get_ydata()]
    axes.set_ylabel("loss")
    if min(values) > 0 and max(values) > WIDE_RANGE * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _position: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda _value, _position: "")
    else:
        axes.set_ylim(min(0.0, *values), 1.08 * max(values) or 1.0)


def _svg(name: str, draw: Callable[[Any], None]) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name)


def _inline(document: str, name: str) -> str:
    """Cut the SVG out of its document: no size but the view box, ids of its own, colors of the page."""
    svg = document[document.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]*"', svg)
    if view_box is None:
        raise ValueError("matplotlib wrote an SVG without a view box")
    svg = re.sub(r"<svg[^>]*>", f'<svg {view_box.group(0)} aria-hidden="true" focusable="false">', svg, count=1)
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", svg).replace("xlink:href", "href")
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg.strip()
