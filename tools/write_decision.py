"""Write the table of docs/how-to/decide.md from the rows in docs/results.

    python tools/write_decision.py

What stands between the two markers of that page is replaced.
"""

from __future__ import annotations

from pathlib import Path

from bounds import AT_MOST, bounded
from costs import cpu_seconds

from genaf_sdk.rows import Comparison, latest, read_rows

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "decide.md"
BEGIN, END = "<!-- write_decision: begin -->\n", "<!-- write_decision: end -->\n"
TASKS = {
    "methods-mobilenet_v1_x0.25-128-trash": ("trash at 128 px, MobileNetV1 x0.25", 1877),
    "methods-efficientnet_lite0-96-trash": ("trash at 96 px, EfficientNet-Lite0", 1877),
    "methods-mobilenet_v1_x0.25-128-steel": ("steel at 128 px, MobileNetV1 x0.25", 1353),
    "methods-bundled-32-digits": ("digits, easy", 1347),
    "methods-bundled-32-gtsrb": ("traffic signs, 43 classes", 20000),
}
"""Folder in docs/results: the task, and its images for training and validation."""
PRESETS = ("strict", "default", "fast", "pgd-at", "trades", "fine-tuning")
"""In the order of the table; those that a folder has."""
BOUNDED = "worst DAE"
"""Column in which earlier rows are upper bounds."""
SHOWN = {"clean": "clean", "worst DAE": "worst DAE", "pgd 4/255": "PGD 4/255"}


def table() -> str:
    """Return the table as Markdown: a line for each task and preset, the first of which names the task."""
    header = ("task", "images", "preset", *SHOWN.values(), "CPU s", "CPU s per 1,000 images")
    lines = [header, ("---", "---:", "---", *["---:"] * (len(header) - 3))]
    for folder, (task, images) in TASKS.items():
        comparison = Comparison(latest(read_rows(ROOT / "docs" / "results" / folder / "comparison.jsonl")))
        columns, *rows = comparison.cells()
        named = task, f"{images:,}"
        for row in sorted((row for row in rows if row[0] in PRESETS), key=lambda row: PRESETS.index(row[0])):
            cells = dict(zip(columns, row, strict=True))
            measured = [run for run in comparison.rows if run.method == row[0]]
            if any(bounded(run.scores) for run in measured):
                cells[BOUNDED] = f"{AT_MOST}{cells[BOUNDED]}"
            cost = cpu_seconds(measured), cpu_seconds(measured, 1000 / images)
            lines.append((*named, f"`{row[0]}`", *(cells[name] for name in SHOWN), *cost))
            named = "", ""
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """Return the page with its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
