"""Write the tables of README.md and docs/methods.md that come from rows of benchmarks/real_encoders.py.

    python tools/write_real.py

What stands between the two markers of each table is replaced.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.report.scores import Role, Score
from genaf_sdk.rows import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.rows import ComparisonRow

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "methods.md")
METHODS = ("strict", "default", "fast", "fine-tuning", "trades", "pgd-at")
"""In the order of the tables; those that a folder has."""


def of(column: str, attack: str) -> Callable[[dict[tuple[str, str], float]], float]:
    """Return what reads the accuracy of one row of the report."""
    return lambda accuracies: accuracies[column, attack]


def strongest_patch(accuracies: dict[tuple[str, str], float]) -> float:
    """Return the lowest accuracy under one patch for all images."""
    patches = (("transfer", "encoder-patch"), ("adaptive", "encoder-patch"), ("white-box", "patch-uap"))
    return min(accuracies[key] for key in patches)


SHORT = {
    "clean": of("clean", ""),
    "public encoder": of("transfer", "uapgd"),
    "hardened encoder": of("adaptive", "uapgd"),
    "with labels": of("white-box", "label-uap"),
    "patch": strongest_patch,
    "PGD 4/255": of("white-box", "pgd 4/255"),
}
FULL = {
    "clean": of("clean", ""),
    "noise": of("noise", "noise"),
    "UAPGD, transferred": of("transfer", "uapgd"),
    "UAPGD, adaptive": of("adaptive", "uapgd"),
    "label UAP": of("white-box", "label-uap"),
    "patch, transferred": of("transfer", "encoder-patch"),
    "patch, adaptive": of("adaptive", "encoder-patch"),
    "patch, label loss": of("white-box", "patch-uap"),
    "patch an image": of("white-box", "patch"),
    "PGD 4/255": of("white-box", "pgd 4/255"),
    "PGD 8/255": of("white-box", "pgd 8/255"),
}


def named(score: Score) -> tuple[str, str]:
    """Return column and attack of a score, with the budget where an attack is run at two."""
    budget = f" {round(255 * score.budget)}/255" if score.attack == "pgd" else ""
    return score.column, f"{score.attack}{budget}"


def line(row: ComparisonRow, columns: dict[str, Callable[[dict[tuple[str, str], float]], float]]) -> str:
    """Return a row of a table."""
    accuracies = {named(score): score.accuracy for score in row.scores if score.model == Role.HARDENED}
    cells = [f"{100 * pick(accuracies):.1f}" for pick in columns.values()]
    return " | ".join((f"`{row.method}`", *cells, f"{row.cpu_seconds:.0f}"))


def table(folder: str, page: Path) -> str:
    """Return the rows of a folder of docs/results as Markdown, in the columns of a page."""
    columns = SHORT if page.name == "README.md" else FULL
    rows = {row.method: row for row in read_rows(ROOT / "docs" / "results" / folder / "comparison.jsonl")}
    heads = " | ".join(("method", *columns, "CPU s"))
    rule = " | ".join(("---", *["---:"] * (len(columns) + 1)))
    return "".join(f"| {each} |\n" for each in (heads, rule, *(line(rows[m], columns) for m in METHODS if m in rows)))


def page(path: Path) -> str:
    """Return a page with its tables made anew."""
    return re.sub(
        r"(<!-- write_real: (\S+) -->\n).*?(<!-- write_real: end -->)",
        lambda found: f"{found[1]}{table(found[2], path)}{found[3]}",
        path.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(page(each), encoding="utf-8")
