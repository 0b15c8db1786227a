"""Write the table of docs/board.md: every method that was measured, by data and encoder.

    python tools/write_board.py

What stands between the two markers of that page is replaced. Our rows come from folders of docs/results named below,
those of others from docs/results/third-party/ORG--NAME/report.json: the report of a bundle published as ORG/NAME.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bounds import AT_MOST, Threat, bounded
from costs import cpu_seconds

from genaf_sdk.export.verify import LEAST_IMAGES
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role, Score, is_universal
from genaf_sdk.rows import latest, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
RESULTS, THIRD_PARTY = ROOT / "docs" / "results", ROOT / "docs" / "results" / "third-party"
PAGE = ROOT / "docs" / "board.md"
BEGIN, END = "<!-- write_board: begin -->\n", "<!-- write_board: end -->\n"
BUNDLED = "bundled:simclr-cifar10"
AGAIN = "python benchmarks/robustness.py {} --methods {{method}} --seeds {{seeds}}"
FOLDERS = {
    "methods-mobilenet_v1_x0.25-128-trash": (
        "trash, 1,877 photographs, 128 px",
        "MobileNetV1 x0.25",
        AGAIN.format("mobilenet_v1_x0.25 --encoders FOLDER --data FOLDER --sets trash --size 128 --precision no"),
    ),
    "methods-efficientnet_lite0-96-trash": (
        "trash, 1,877 photographs, 96 px",
        "EfficientNet-Lite0",
        AGAIN.format("efficientnet_lite0 --encoders FOLDER --data FOLDER --sets trash --size 96 --precision no"),
    ),
    "methods-mobilenet_v1_x0.25-128-steel": (
        "steel, 1,353 photographs, 128 px",
        "MobileNetV1 x0.25",
        AGAIN.format("mobilenet_v1_x0.25 --encoders FOLDER --data FOLDER --sets steel --size 128 --precision no"),
    ),
    "methods-bundled-32-digits": ("digits", BUNDLED, AGAIN.format("--sets digits")),
    "methods-bundled-32-gtsrb": ("GTSRB, 20,000 images", BUNDLED, AGAIN.format("--sets gtsrb")),
}
"""Folder of docs/results: its data, the encoder, and the command that makes its rows."""
THREATS = (
    *("clean", "universal", "universal, labels", "patch", "patch, each image"),
    *("each image, 8/255", "each image, 4/255"),
)
BOUNDED: dict[str, Threat] = {
    **dict.fromkeys(("universal", "universal, labels"), "perturbation"),
    **dict.fromkeys(("patch", "patch, each image"), "patch"),
}
"""Columns in which earlier rows are upper bounds."""
UNIVERSAL, AREA = 10 / 255, 0.03
"""Budgets of the columns: what was borne under a smaller one would flatter its method."""
LABEL_FREE = (Knowledge.TRANSFER, Knowledge.ADAPTIVE)


@dataclass(frozen=True)
class Entry:
    """A line of the table: accuracies (share) by threat, one a seed. Those of ``earlier`` threats are upper bounds."""

    data: str
    encoder: str
    method: str
    accuracies: dict[str, list[float]]
    cost: str
    command: str
    earlier: set[Threat]


def threat_of(score: Score) -> str | None:
    """Return the column that a row of a report counts for; None where the board has none of its kind and budget."""
    if score.column == Knowledge.CLEAN:
        return "clean"
    if score.is_patch:
        name = "patch" if score.perturbation else "patch, each image"
        return name if math.isclose(score.budget, AREA, rel_tol=1e-3) else None
    if is_universal(score):
        name = "universal" if score.column in LABEL_FREE else "universal, labels"
        return name if math.isclose(score.budget, UNIVERSAL, rel_tol=1e-3) else None
    name = next((f"each image, {k}/255" for k in (8, 4) if math.isclose(score.budget, k / 255, rel_tol=1e-3)), None)
    return name if score.column == Knowledge.WHITE_BOX else None


def worst(scores: Iterable[Score]) -> dict[str, float]:
    """Return the lowest accuracy of the hardened model under each threat."""
    found: dict[str, float] = {}
    for score in scores:
        threat = threat_of(score)
        if threat is not None and score.model == Role.HARDENED:
            found[threat] = min(score.accuracy, found.get(threat, 1.0))
    return found


def own_entries() -> Iterable[Entry]:
    """Yield our entries, in the order of their files."""
    for folder, (data, encoder, command) in FOLDERS.items():
        rows = latest(read_rows(RESULTS / folder / "comparison.jsonl"))
        for method in dict.fromkeys(row.method for row in rows):
            chosen = [row for row in rows if row.method == method]
            found = [worst(row.scores) for row in chosen]
            accuracies = {threat: [each[threat] for each in found if threat in each] for threat in THREATS}
            again = command.format(method=method, seeds=" ".join(str(row.seed) for row in chosen))
            earlier = {threat for row in chosen for threat in bounded(row.scores)}
            yield Entry(data, encoder, method, accuracies, cpu_seconds(chosen), again, earlier)


def others_entries(folder: Path = THIRD_PARTY) -> Iterable[Entry]:
    """Yield the entries that others handed in; a row of fewer images than ours could be of those that flatter."""
    for path in sorted(folder.glob("*--*/report.json")):
        report = RobustnessReport.from_dict(json.loads(path.read_text(encoding="utf-8")))
        name = path.parent.name.replace("--", "/", 1)
        encoder = "" if report.model is None else report.model.encoder
        least = min(LEAST_IMAGES, report.data.sizes.test)
        accuracies = {threat: [value] for threat, value in worst(s for s in report.scores if s.n >= least).items()}
        again, earlier = f"genaf verify hf-hub:{name}", bounded(report.scores)
        yield Entry(report.data.name, encoder, name, accuracies, "", again, earlier)


def table(entries: Iterable[Entry]) -> str:
    """Return entries as Markdown, those of one data set together, the highest lowest accuracy first."""
    header = ("data", "encoder", "method", *THREATS, "CPU s", "seeds", "again")
    lines = [header, ("---", "---", "---", *["---:"] * (len(THREATS) + 2), "---")]
    everything = list(entries)
    for data in dict.fromkeys(entry.data for entry in everything):
        chosen = [entry for entry in everything if entry.data == data]
        for entry in sorted(chosen, key=lambda entry: -_mean(entry.accuracies.get("universal", [0.0]))):
            cells = [
                f"{AT_MOST if BOUNDED.get(threat) in entry.earlier else ''}{_cell(entry.accuracies.get(threat, []))}"
                for threat in THREATS
            ]
            seeds = len(entry.accuracies.get("clean", []))
            names = (entry.data, f"`{entry.encoder}`", f"`{entry.method}`")
            lines.append((*names, *cells, entry.cost, str(seeds), f"`{entry.command}`"))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """Return the page with its table made anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table([*own_entries(), *others_entries()])}{END}{rest.partition(END)[2]}"


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * _mean(values):.1f}{spread}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
