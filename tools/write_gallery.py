"""Put a finished run into docs/gallery.md: its row in the table, and its report as a page to open.

    python tools/write_gallery.py OUTPUT_FOLDER NAME --title TITLE --command COMMAND --machine MACHINE [--pictures]
    python tools/write_gallery.py        # writes the page anew from docs/gallery/runs.jsonl

The report's test images are left out unless --pictures is given: few data sets allow their pictures to be passed on.
A report that names a path of its machine is refused. With the first run, README and the site link to the page.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bounds import AT_MOST

from genaf_sdk import HardenConfig
from genaf_sdk.config import EvaluationConfig
from genaf_sdk.evaluation.chosen import stated_attacks
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.gallery import without_pictures
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role, Score, is_universal, lowest_accuracy
from genaf_sdk.report.verdict import budget_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE = ROOT / "docs" / "gallery", ROOT / "docs" / "gallery.md"
ROWS = FOLDER / "runs.jsonl"
TEXT = """# Gallery

Each run below was made by the command beside it, and its report is the page that the command left. Accuracies are
before and after hardening, under the attack that leaves the least; the report has the others, n and intervals.

{table}
*Public encoder* and *own encoder* are one perturbation or patch for all images, crafted without labels on the encoder
that everybody has, or on the one inside the attacked model. *Single images* is the strongest attack on each image by
itself. {bound}A report without pictures is of a data set whose license does not let them be passed on.
Times in the reports are by the clock, on a machine that others used: how long a run takes, [Decide](how-to/decide.md)
says.
"""
BOUND = "Figures with ≤ are from before today's attacks, and may be lower. "
LINKS = (
    (
        ROOT / "README.md",
        "[reading the report](docs/explanation/reading-the-report.md)",
        ", [real runs](docs/gallery.md)",
    ),
    (ROOT / "mkdocs.yml", "      - Your own pictures: tutorials/own-pictures.md\n", "  - Gallery: gallery.md\n"),
)
"""What is said in which file about the page, and after which words."""
ABSOLUTE = re.compile(r"(?:^|[\s:=\"'(])(?:/(?!sys/|proc/|dev/)[\w.~-]+/[\w.~-]|[A-Za-z]:\\)")
"""A path from the root of a file system, as in a text; no address of the web, no fraction, and none of the kernel's."""
COLUMNS = ("run", "encoder, pixels", "clean", "public encoder", "own encoder", "single images", "report")


def row_of(report: RobustnessReport, name: str, title: str, command: str, machine: str) -> dict[str, Any]:
    """Return what the table says of a run, every accuracy before and after as a share with n and budget."""

    def lowest(counts: Callable[[Score], bool]) -> dict[str, Any]:
        chosen = {role: filter(counts, report.rows(model=role)) for role in (Role.BASELINE, Role.HARDENED)}
        return {role: _cell(lowest_accuracy(rows)) for role, rows in chosen.items()}

    model = report.model
    return {
        "name": name,
        "title": title,
        "command": command,
        "machine": machine,
        "seed": report.seed,
        "encoder": "" if model is None else model.encoder,
        "image_size": list(report.data.image_shape[1:]),
        "classes": len(report.data.class_names),
        "training_images": report.data.sizes.train,
        "clean": lowest(lambda score: score.column == Knowledge.CLEAN),
        **{
            column: lowest(lambda score, column=column: score.column == column and is_universal(score))
            for column in (Knowledge.TRANSFER, Knowledge.ADAPTIVE)
        },
        "single_images": lowest(lambda score: score.crafting_data == "test"),
        "attacks": stated_attacks(HardenConfig.from_dict(report.config).evaluation),
    }


def _cell(row: Score | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {"accuracy": row.accuracy, "n": row.n, "attack": row.attack, "budget": budget_text(row)}


def add(run: Path, name: str, *, title: str, command: str, machine: str, pictures: bool) -> None:
    """Write a run's page and its row; a row of that name is replaced.

    Raises:
        SystemExit: The report names a path of the machine that it was made on.
    """
    report = RobustnessReport.load(run)
    if not pictures:
        without_pictures(report)
    paths = sorted({text for text in strings(report.to_dict()) if ABSOLUTE.search(text)})
    if paths:
        raise SystemExit(f"The report of {run} says {paths[0][:200]!r}: a page for others names no path of a machine.")
    report.save_html(FOLDER / f"{name}.html")
    rows = [row for row in read_rows() if row["name"] != name] + [row_of(report, name, title, command, machine)]
    lines = [json.dumps(row, ensure_ascii=False) for row in sorted(rows, key=lambda row: row["name"])]
    ROWS.write_text("\n".join(lines) + "\n", encoding="utf-8")


def strings(content: object) -> Iterator[str]:
    """Yield every text in a document."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from strings(part)


def link() -> None:
    """Say where the page is, in the files that lead readers to pages."""
    for path, after, said in LINKS:
        text = path.read_text("utf-8")
        if said not in text:
            if after not in text:
                raise SystemExit(f"{path.name} lacks {after!r}, after which the page would be named.")
            path.write_text(text.replace(after, after + said, 1), encoding="utf-8")


def read_rows() -> list[dict[str, Any]]:
    """Return the rows of all runs."""
    return [json.loads(line) for line in ROWS.read_text("utf-8").splitlines()] if ROWS.exists() else []


def table() -> str:
    """Return the table and, below it, the command and the machine of every run."""
    lines = [COLUMNS, ("---", "---", *["---"] * (len(COLUMNS) - 2))]
    notes = []
    for row in read_rows():
        height, width = row["image_size"]
        bound = "" if is_of_today(row) else AT_MOST
        lines.append(
            (
                f"{row['title']}: {row['classes']} classes, {row['training_images']:,} images",
                f"{row['encoder']}, {height} x {width}",
                shown(row["clean"]),
                *(shown(row[part], bound) for part in (Knowledge.TRANSFER, Knowledge.ADAPTIVE, "single_images")),
                f"[open](gallery/{row['name']}.html)",
            )
        )
        notes.append(f"- **{row['title']}**: `{row['command']}`, seed {row['seed']}, {row['machine']}.")
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n" + "\n".join(notes) + "\n"


def is_of_today(row: dict[str, Any]) -> bool:
    """Return whether a run was attacked as a run is by default today, with every setting of every attack."""
    return bool(row.get("attacks") == stated_attacks(EvaluationConfig()))


def shown(cell: dict[str, Any], bound: str = "") -> str:
    """Return an accuracy before and after: `98.2 → 96.5 % (uapgd, 10/255, n = 450)`; ``bound`` comes first."""
    before, after = cell[Role.BASELINE], cell[Role.HARDENED]
    if after is None:
        return "not measured"
    about = ", ".join(filter(None, (after["attack"], after["budget"], f"n = {after['n']}")))
    was = "" if before is None else f"{100 * before['accuracy']:.1f} → "
    return f"{bound}{was}{100 * after['accuracy']:.1f} % ({about})"


def page() -> str:
    """Return the page."""
    return TEXT.format(table=table(), bound="" if all(map(is_of_today, read_rows())) else BOUND)


def main() -> None:
    """Read the command line, add a run if one is given, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, nargs="?", help="what `genaf harden` left")
    parser.add_argument("name", nargs="?", help="of the page")
    for option, about in (
        ("--title", "what the pictures show"),
        ("--command", "that made the run"),
        ("--machine", "that it ran on"),
    ):
        parser.add_argument(option, default="", help=about)
    parser.add_argument("--pictures", action="store_true", help="keep the test images: their license allows it")
    given = parser.parse_args()
    if given.run is not None:
        if not all((given.name, given.title, given.command, given.machine)):
            parser.error("a run needs NAME, --title, --command and --machine")
        FOLDER.mkdir(exist_ok=True)
        about = {"title": given.title, "command": given.command, "machine": given.machine}
        add(given.run, given.name, pictures=given.pictures, **about)
    if not read_rows():
        parser.error(f"{ROWS.name} holds no run: name one")
    PAGE.write_text(page(), encoding="utf-8")
    link()


if __name__ == "__main__":
    main()
