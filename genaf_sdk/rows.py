"""What ``compare()`` measures: a row for each method and seed, the file that rows are kept in, the table, the plot."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from rich.table import Table

from genaf_sdk.config import HardenConfig
from genaf_sdk.drawing import WORST_DAE, draw
from genaf_sdk.engine.checkpoints import differences
from genaf_sdk.errors import ConfigError, OutputError
from genaf_sdk.evaluation.settings import AttackConfig, EvaluationConfig
from genaf_sdk.files import replacing
from genaf_sdk.locks import lock
from genaf_sdk.report.reading import plain, read_document
from genaf_sdk.report.scores import Score
from genaf_sdk.report.verdict import budget_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROWS_FILE, TABLE_FILE, PLOT_FILE = "comparison.jsonl", "comparison.md", "comparison.svg"
BESIDE_ATTACKS = {field.name for field in fields(EvaluationConfig)} - {field.name for field in fields(AttackConfig)}


@dataclass(frozen=True)
class ComparisonRow:
    """One method with one seed.

    Args:
        method: Its name.
        seed: Of training and evaluation.
        config: All settings, as ``HardenConfig.to_dict`` gives them.
        data: SHA-256 of the data.
        scores: What ``evaluate`` measured.
        seconds: Wall time of both stages.
        cpu_seconds: Processor time of both stages, over all threads: on a CPU the fairer figure where others compute.
        encoder: SHA-256 of the published encoder, its weights and normalization; empty in older rows, which are never
            taken for those of another run.
        frozen: The encoder's parameters that its user froze.
        attacks: Every setting of each attack, by its text in ``config``, which leaves out defaults; empty in older
            rows, which are never taken for those of another run.
        code: Hash of the code of a method, and of its head, that are somebody else's; empty for those of this package.
        processor: What trained it, to the end, as ``x86_64 AVX512`` or a GPU's name: times of different ones cannot be
            compared. Empty in older rows.
        learning_rates: What a range test chose for the encoder, by stage: it may differ between processors. Empty where
            it was given, and in older rows.
    """

    derived: ClassVar[dict[str, str]] = {"figures": "figures"}

    method: str
    seed: int
    config: dict[str, Any]
    data: str
    scores: tuple[Score, ...]
    seconds: float
    cpu_seconds: float
    encoder: str = ""
    frozen: tuple[str, ...] = ()
    attacks: dict[str, Any] = field(default_factory=dict)
    code: str = ""
    processor: str = ""
    learning_rates: dict[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What tells it from others, as text: all that decides its figures."""
        decides = [self.method, self.seed, relevant(self.config), self.encoder, self.frozen, self.attacks, self.data]
        decides += [self.code] if self.code else []
        return json.dumps(decides, sort_keys=True)

    @property
    def lowest(self) -> dict[str, Score]:
        """The score behind every figure."""
        named: dict[str, list[Score]] = {"clean": [], "transfer": [], "adaptive": [], WORST_DAE: []}
        for score in self.scores:
            text, names = f"{score.attack} {budget_text(score)}", list[str]()
            if score.column in ("transfer", "adaptive"):
                names = [score.column, WORST_DAE] if score.perturbation else [f"{text} ({score.column})"]
            elif score.column in ("clean", "white-box"):
                names = ["clean" if score.column == "clean" else text]
            for name in names:
                named.setdefault(name, []).append(score)
        return {name: min(scores, key=lambda score: score.accuracy) for name, scores in named.items() if scores}

    @property
    def figures(self) -> dict[str, float]:
        """Accuracies in [0, 1]: clean, the worst of each column against DAEs and of both, each other attack.

        Of one attack in several settings at one budget, it is the lowest. One that perturbs each image by itself is no
        DAE, and has a figure of its own, with the column where it knows an encoder alone.
        """
        return {name: score.accuracy for name, score in self.lowest.items()}

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(plain(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> ComparisonRow:
        """Read what ``to_json`` wrote.

        Raises:
            OutputError: It is something else.
        """
        try:
            return read_document(cls, json.loads(line))
        except (ValueError, RecursionError) as error:
            raise OutputError(f"It is no JSON: {error}.") from error


@dataclass(frozen=True)
class FailedCell:
    """A method and seed that an executor could not measure.

    Args:
        method: Its name.
        seed: Of training and evaluation.
        reason: What was raised, in one line.
    """

    method: str
    seed: int
    reason: str

    @property
    def text(self) -> str:
        """Return all of it in one line."""
        return f"{self.method}, seed {self.seed}: {self.reason}"


@dataclass
class Comparison:
    """What ``compare`` measured: a row for each method and seed, and those that an executor could not measure."""

    rows: list[ComparisonRow] = field(default_factory=list)
    failed: list[FailedCell] = field(default_factory=list)

    @property
    def methods(self) -> list[str]:
        """The methods, in the order they came in."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def unlike(self) -> list[ComparisonRow]:
        """Rows whose attacks, budgets or numbers of images are not those of the last row, as far as both state them."""
        stated = [(relevant(row.config).get("evaluation"), row.attacks) for row in self.rows]
        return [
            row
            for row, (evaluation, attacks) in zip(self.rows, stated, strict=True)
            if evaluation != stated[-1][0] or (attacks and stated[-1][1] and attacks != stated[-1][1])
        ]

    @property
    def certainty(self) -> str:
        """How many test images a figure of one seed is of, and how far its interval reaches; empty without rows."""
        found: dict[int, list[str]] = {}
        reach: dict[int, float] = {}
        lowest = [row.lowest for row in self.rows]
        for name in dict.fromkeys(name for row in lowest for name in row):
            scores = [row[name] for row in lowest if name in row]
            n = min(score.n for score in scores)
            found.setdefault(n, []).append(name)
            ends = [abs(end - score.accuracy) for score in scores for end in score.interval]
            reach[n] = max(reach.get(n, 0.0), *ends)
        told = "; ".join(f"{', '.join(names)}: n = {n}, up to ± {100 * reach[n]:.1f}" for n, names in found.items())
        return f"Test images of one seed, and how far its 95 % interval reaches: {told}" if told else ""

    @property
    def processors(self) -> str:
        """What trained the rows, and which methods where there are several; empty where no row states it."""
        found: dict[str, dict[str, None]] = {}
        for row in self.rows:
            found.setdefault(row.processor or "one that is not stated", {})[row.method] = None
        if not any(row.processor for row in self.rows):
            return ""
        if len(found) == 1:
            return f"CPU seconds are of {next(iter(found))}"
        told = "; ".join(f"{name}: {', '.join(methods)}" for name, methods in found.items())
        return f"CPU seconds of different processors cannot be compared. {told}"

    def figures(self, method: str) -> dict[str, tuple[float, float]]:
        """Return every accuracy of one method as (mean, standard deviation) over its seeds; 0 for a single seed."""
        rows = [row.figures for row in self.rows if row.method == method]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: _spread([row[name] for row in rows if name in row]) for name in names}

    def cpu_seconds(self, method: str) -> float:
        """Return the training's processor time, the median over seeds: a busy machine lengthens a run now and then."""
        return statistics.median(row.cpu_seconds for row in self.rows if row.method == method)

    def cells(self) -> list[list[str]]:
        """Return the table as text: a header, then a line for each method."""
        names = list(dict.fromkeys(name for method in self.methods for name in self.figures(method)))
        lines = [["method", *names, "CPU seconds", "seeds"]]
        for method in self.methods:
            figures, rows = self.figures(method), [row.figures for row in self.rows if row.method == method]
            measured = {name: sum(name in row for row in rows) for name in names}
            cells = [_percent(*figures[name], measured[name]) if name in figures else "" for name in names]
            lines.append([method, *cells, f"{self.cpu_seconds(method):.0f}", str(len(rows))])
        return lines

    def table(self) -> Table:
        """Return the table for a terminal: a column for each method, as there are more attacks, of longer names."""
        columns = self.cells()
        title = "Accuracy in %, mean and standard deviation over seeds"
        below = "\n".join(filter(None, [self.certainty, self.processors]))
        table = Table(title=title, title_justify="left", caption=below, caption_justify="left")
        for head, *_ in columns:
            table.add_column(head, justify="right" if table.columns else "left", overflow="fold")
        for row in zip(*(cells for _, *cells in columns), strict=True):
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """Return the table as Markdown, and below it what figures are of, what failed, and what cannot be compared."""
        header, *lines = self.cells()
        rule = ["---", *["---:"] * (len(header) - 1)]
        rows = ([cell.replace("|", "\\|") for cell in line] for line in (header, rule, *lines))
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        remarks = [*filter(None, [self.certainty, self.processors])]
        remarks += [f"Not measured: {cell.text}" for cell in self.failed]
        if self.unlike:
            names = [f"{row.method}, seed {row.seed}" for row in (self.rows[-1], *self.unlike)]
            remarks.append(f"Not measured under the same attacks as {names[0]}: {'; '.join(names[1:])}")
        return table + "".join(f"\n{remark}\n" for remark in remarks)

    def save(self, folder: Path) -> None:
        """Write the table as Markdown and the plot as SVG.

        Raises:
            OutputError: The folder cannot be written.
        """
        with replacing(folder / TABLE_FILE) as temporary:
            temporary.write_text(self.markdown(), encoding="utf-8")
        self.plot(folder / PLOT_FILE)

    def plot(self, path: Path) -> None:
        """Draw clean accuracy against that under the worst DAE, and beside it under PGD of the least budget, if any."""
        scores = [
            score for row in self.rows for score in row.scores if (score.column, score.attack) == ("white-box", "pgd")
        ]
        least = min(scores, key=lambda score: score.budget, default=None)
        threats = [WORST_DAE] if least is None else [WORST_DAE, f"pgd {budget_text(least)}"]
        figures = {method: self.figures(method) for method in self.methods}
        comparable = len({row.processor for row in self.rows}) == 1
        draw(path, figures, {method: self.cpu_seconds(method) for method in self.methods if comparable}, threats)


def read_rows(path: Path) -> list[ComparisonRow]:
    """Return the complete rows of a file; a last line that was cut off does not count.

    Raises:
        OutputError: The file, or another line, cannot be read.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror or error}.") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(ComparisonRow.from_json(line))
        except OutputError as error:
            raise OutputError(
                f"{path} is damaged in line {number}. {error.problem}",
                expected=error.expected,
                remedy="move it away and start again, or take this line out",
            ) from error
    return rows


def latest(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Return of each method and seed the last row: earlier ones have settings or images that were changed since."""
    return list({(row.method, row.seed): row for row in rows}.values())


def append_row(path: Path, row: ComparisonRow) -> ComparisonRow:
    """Add a line in one write, and return the row; or the same one of another process, which was faster.

    Processes take turns. A cut-off line that an earlier run left is removed.

    Raises:
        OutputError: The file cannot be written, or is damaged.
    """
    line = row.to_json() + "\n"
    try:
        with path.open("a+b") as file:
            lock(file)
            faster = [other for other in read_rows(path) if other.identity == row.identity]
            if faster:
                return faster[0]
            file.seek(0)
            complete = file.read().rfind(b"\n") + 1
            file.truncate(complete)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    return row


def relevant(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a row depends on, as JSON: not the machine nor the export; later settings have their defaults.

    Of the evaluation only attacks count: a row holds nothing else of it.
    """
    with contextlib.suppress(ConfigError):  # a setting that no longer exists: such a row matches nothing
        content = HardenConfig.from_dict(content).to_dict()
    kept = {name: value for name, value in content.items() if name not in ("machine", "export", "baseline")}
    if isinstance(kept.get("evaluation"), dict):
        kept["evaluation"] = {name: value for name, value in kept["evaluation"].items() if name not in BESIDE_ATTACKS}
    found: dict[str, Any] = json.loads(json.dumps(kept))
    return found


def what_moved(before: ComparisonRow, now: ComparisonRow) -> list[str]:
    """Return in what a row differs from one that is asked for: settings, attacks, encoder, images."""
    moved = differences(relevant(before.config), relevant(now.config))
    if before.attacks:
        for text in sorted(before.attacks.keys() & now.attacks):  # others are told with the settings already
            moved += differences(before.attacks[text], now.attacks[text], f"attacks.{text}")
    else:
        moved += ["no settings of its attacks, which may have changed since"]
    moved += ["another encoder"] if before.encoder != now.encoder else []
    moved += ["other code of its method"] if before.code != now.code else []
    moved += ["other parts of the encoder frozen"] if before.frozen != now.frozen else []
    return moved + (["other images"] if before.data != now.data else [])


def _spread(values: list[float]) -> tuple[float, float]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _percent(mean: float, spread: float, seeds: int) -> str:
    return f"{100 * mean:.1f}" + (f" ± {100 * spread:.1f}" if seeds > 1 else "")
