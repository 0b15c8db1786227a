"""The plot of a comparison: clean accuracy to the right, that under a threat upwards, a disc for each method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genaf_sdk.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

WORST_DAE = "worst DAE"

Figures = dict[str, tuple[float, float]]
"""Accuracies in [0, 1] by name: mean and standard deviation over seeds."""


def draw(path: Path, figures: Mapping[str, Figures], seconds: Mapping[str, float], threats: Sequence[str]) -> None:
    """Write an SVG with a panel for each threat.

    Args:
        path: The file.
        figures: Of each method.
        seconds: Processor time of training of each method; none where times cannot be compared: all discs are alike.
        threats: Names of figures; a method that lacks one is missing in its panel.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(threats), 4.6), layout="constrained")
    for axes, threat in zip(figure.subplots(1, len(threats), squeeze=False).flat, threats, strict=True):
        _draw(axes, figures, seconds, threat)
    alike = "Times are of different processors, so discs are alike."
    told = "A disc's area is the processor time of training." if seconds else alike
    figure.suptitle(f"Up and right is better. {told}", fontsize=9)
    with replacing(path) as temporary, rc_context({"svg.hashsalt": "genaf"}):
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _draw(axes: Axes, figures: Mapping[str, Figures], seconds: Mapping[str, float], threat: str) -> None:
    most = max(seconds.values(), default=0.0)
    names: dict[tuple[float, float], str] = {}
    for index, (method, found) in enumerate(figures.items()):
        if threat not in found:
            continue
        x, x_spread = (100 * figure for figure in found["clean"])
        y, y_spread = (100 * figure for figure in found[threat])
        color = f"C{index % 10}"
        area = 30 + 600 * seconds.get(method, 0.0) / max(most, 1e-9)
        axes.scatter(x, y, s=area, color=color, alpha=0.5, linewidths=0)
        axes.errorbar(x, y, y_spread, x_spread, color=color, fmt=".", linewidth=1)
        near = next((at for at in names if abs(at[0] - x) < 0.5 and abs(at[1] - y) < 0.5), (x, y))
        names[near] = f"{names[near]}, {method}" if near in names else method
    _widen(axes)
    middle = sum(axes.get_xlim()) / 2
    for (x, y), name in names.items():
        side, offset = ("left", 8) if x < middle else ("right", -8)
        axes.annotate(
            name.replace("$", r"\$"), (x, y), xytext=(offset, 5), textcoords="offset points", ha=side, fontsize=9
        )
    axes.set(xlabel="clean accuracy in %", ylabel=f"accuracy under {_title(threat)} in %")
    axes.grid(alpha=0.3)


def _title(threat: str) -> str:
    return f"the {threat}" if threat == WORST_DAE else threat.replace("pgd", "PGD")


def _widen(axes: Axes) -> None:
    """Leave room around the discs, and show ten points at least: a tenth of a point is no difference."""
    axes.margins(0.12)
    for (low, high), change in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        missing = max(10 - (high - low), 0) / 2
        top = min(high + missing, 101)
        change(min(low - missing, top - 10), top)
