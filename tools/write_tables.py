"""Write the tables of README.md and docs/methods.md that come from rows of benchmarks/robustness.py.

    python tools/write_tables.py

What stands between the two markers of each table is replaced.
"""

from __future__ import annotations

import itertools
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from bounds import AT_MOST, Threat, bounded
from costs import cpu_seconds

from genaf_sdk.report.scores import Role, Score
from genaf_sdk.rows import latest, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genaf_sdk.rows import ComparisonRow

    Columns = dict[str, Callable[[dict[tuple[str, str], float]], float]]

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "methods.md")
METHODS = (
    *("strict", "default", "fast", "paper", "linear-probe", "fine-tuning"),
    *("trades", "pgd-at", "mart", "rift", "universal-at"),
)
"""In the order of the tables; those that a folder has."""
OTHERS = {
    "trash, EfficientNet-Lite0, 96 px": "methods-efficientnet_lite0-96-trash",
    "steel, MobileNetV1, 128 px": "methods-mobilenet_v1_x0.25-128-steel",
    "signs, bundled encoder, 32 px": "methods-bundled-32-gtsrb",
}
OF_OTHERS = ("strict", "default", "fine-tuning", "pgd-at")
"""What README shows in a second table, in the columns of the first."""


def of(column: str, attack: str) -> Callable[[dict[tuple[str, str], float]], float]:
    """Return what reads the accuracy of one row of the report."""
    return lambda accuracies: accuracies[column, attack]


def strongest_perturbation(*columns: str) -> Callable[[dict[tuple[str, str], float]], float]:
    """Return what reads the lowest accuracy under one perturbation for all images."""
    return lambda accuracies: min(
        accuracy for (column, attack), accuracy in accuracies.items() if column in columns and attack in UNIVERSAL
    )


def strongest_patch(*columns: str) -> Callable[[dict[tuple[str, str], float]], float]:
    """Return what reads the lowest accuracy under one patch for all images."""
    patches = "encoder-patch", "cluster-patch", "plain-patch", "patch-uap"
    return lambda accuracies: min(
        accuracy for (column, attack), accuracy in accuracies.items() if column in columns and attack in patches
    )


UNIVERSAL = ("uapgd", "cluster-uap", "label-uap")
BOUNDED: dict[str, Threat] = {
    **dict.fromkeys(("public encoder", "hardened encoder", "with labels"), "perturbation"),
    **dict.fromkeys(("UAP, transferred", "UAP, adaptive", "label UAP"), "perturbation"),
    **dict.fromkeys(("patch", "patch, transferred", "patch, adaptive", "patch, label loss", "patch an image"), "patch"),
}
"""Columns in which earlier rows are upper bounds: who has labels begins at what was found without them."""
SHORT = {  # by what the attacker has: whoever has more can use what less would do
    "clean": of("clean", ""),
    "public encoder": strongest_perturbation("transfer"),
    "hardened encoder": strongest_perturbation("transfer", "adaptive"),
    "with labels": strongest_perturbation("transfer", "adaptive", "white-box"),
    "patch": strongest_patch("transfer", "adaptive", "white-box"),
    "PGD 4/255": of("white-box", "pgd 4/255"),
}
FULL = {
    "clean": of("clean", ""),
    "noise": of("noise", "noise"),
    "UAP, transferred": strongest_perturbation("transfer"),
    "UAP, adaptive": strongest_perturbation("adaptive"),
    "label UAP": of("white-box", "label-uap"),
    "patch, transferred": strongest_patch("transfer"),
    "patch, adaptive": strongest_patch("adaptive"),
    "patch, label loss": of("white-box", "patch-uap"),
    "patch an image": of("white-box", "patch"),
    "PGD 4/255": of("white-box", "pgd 4/255"),
    "PGD 8/255": of("white-box", "pgd 8/255"),
}


def named(score: Score) -> tuple[str, str]:
    """Return column and attack of a score, with the budget where an attack is run at two."""
    budget = f" {round(255 * score.budget)}/255" if score.attack == "pgd" else ""
    return score.column, f"{score.attack}{budget}"


def line(rows: Sequence[ComparisonRow], columns: Columns) -> str:
    """Return a line of a table: accuracies of a method, with their standard deviation where it has several seeds."""
    found = [{named(each): each.accuracy for each in row.scores if each.model == Role.HARDENED} for row in rows]
    earlier = {threat for row in rows for threat in bounded(row.scores)}
    cells = [
        f"{AT_MOST if BOUNDED.get(head) in earlier else ''}{_cell([100 * pick(accuracies) for accuracies in found])}"
        for head, pick in columns.items()
    ]
    return " | ".join((f"`{rows[0].method}`", *cells, cpu_seconds(rows)))


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{spread}"


def table(name: str, page: Path) -> str:
    """Return the rows of a folder of docs/results, or of ``OTHERS``, as Markdown in the columns of a page."""
    columns = SHORT if page.name == "README.md" else FULL
    numbers = ["---:"] * (len(columns) + 1)
    if name != "others":
        lines = [("method", *columns, "CPU s"), ("---", *numbers), *((row,) for row in lines_of(name, columns))]
    else:
        lines = [("images, encoder", "method", *columns, "CPU s"), ("---", "---", *numbers)]
        for label, folder in OTHERS.items():
            labels = itertools.chain((label,), itertools.repeat(""))
            lines += zip(labels, lines_of(folder, columns, OF_OTHERS), strict=False)
    return "".join(f"| {' | '.join(each)} |\n" for each in lines)


def lines_of(folder: str, columns: Columns, methods: Sequence[str] = METHODS) -> list[str]:
    """Return a line for each of some methods, of those that a folder of docs/results has."""
    rows = latest(read_rows(ROOT / "docs" / "results" / folder / "comparison.jsonl"))
    of_methods = [[row for row in rows if row.method == method] for method in methods]
    return [line(each, columns) for each in of_methods if each]


def page(path: Path) -> str:
    """Return a page with its tables made anew."""
    return re.sub(
        r"(<!-- write_tables: (\S+) -->\n).*?(<!-- write_tables: end -->)",
        lambda found: f"{found[1]}{table(found[2], path)}{found[3]}",
        path.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(page(each), encoding="utf-8")
