"""What the written forms of a report put into their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import Role, Score
from genaf_sdk.report.verdict import budget_text

if TYPE_CHECKING:
    from genaf_sdk.report.data import Report

KNOWLEDGE: dict[str, str] = {
    Knowledge.CLEAN: "The test images as they are.",
    Knowledge.NOISE: "Random noise of the same budget: a sanity baseline that every attack should beat.",
    Knowledge.TRANSFER: "The attacker knows the published encoder alone. One perturbation or patch for all images is "
    "the paper's threat model; some attacks perturb every image by itself.",
    Knowledge.ADAPTIVE: "The attacker knows the attacked model's own encoder, and no labels.",
    Knowledge.WHITE_BOX: "The attacker knows the whole model and, for some attacks, perturbs every image by itself.",
}
"""What the attacker of each column knows."""
MATRIX_CLASSES, LISTED_CLASSES, LISTED_CONFUSIONS = 20, 30, 20
"""Up to so many classes a matrix is drawn; so many classes and confusions are listed, the least accurate first."""


@dataclass(frozen=True)
class AttackRow:
    """One attack: its budget in words, the images it was crafted on, and a score by model where there is one.

    ``run`` counts attacks of the same name, budget and images, which differ in other settings, from 1.
    """

    attack: str
    budget: str
    crafting_data: str
    run: int
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        """The attack's name, told from others of the same name by a number."""
        return self.attack if self.run == 1 else f"{self.attack} ({self.run})"

    @property
    def tries(self) -> int:
        """Of how many tries the strongest counted."""
        return max((score.tries for score in self.scores.values()), default=1)


@dataclass(frozen=True)
class ClassRow:
    """One class: its name, training images (where known), test images, and accuracies by model in [0, 1]."""

    name: str
    trained: int | None
    n: int
    clean: dict[str, float]
    attacked: dict[str, float]


@dataclass(frozen=True)
class ConfusionTable:
    """What one model says under the strongest universal attack: a matrix (true, predicted), or its main errors."""

    column: str
    attack: str
    matrix: list[list[int]]
    pairs: list[tuple[str, str, int]]


def models_of(report: Report) -> dict[str, str]:
    """Return the models in the report, before hardening first, with the word that heads their column."""
    present = {score.model for score in report.scores}
    words: dict[str, str] = {Role.HARDENED: "Model"}
    if Role.BASELINE in present:
        words = {Role.BASELINE: "Before", Role.HARDENED: "After"}
    return {model: word for model, word in words.items() if model in present}


def summary_rows(report: Report) -> list[tuple[Knowledge, dict[str, Score | None]]]:
    """Return every column with the row of lowest accuracy of each model; None where it was not measured."""
    models = models_of(report)
    return [(column, {model: report.strongest_attack(column, model) for model in models}) for column in Knowledge]


def attack_rows(report: Report) -> dict[Knowledge, list[AttackRow]]:
    """Return all rows by column, the models of one attack side by side; an attack run twice has two rows."""
    found: dict[Knowledge, dict[tuple[Any, ...], AttackRow]] = {}
    for score in report.scores:
        if not score.attack:
            continue
        column = found.setdefault(score.column, {})
        key, run = (score.attack, budget_text(score), score.crafting_data), 1
        while (*key, run) in column and score.model in column[*key, run].scores:
            run += 1
        column.setdefault((*key, run), AttackRow(*key, run, {})).scores[score.model] = score
    return {column: list(found[column].values()) for column in Knowledge if column in found}


def class_rows(report: Report) -> list[ClassRow]:
    """Return every class, that with the lowest attacked accuracy of the hardened model first; empty if not counted."""
    counted = report.classes or {}
    rows = []
    for index, name in enumerate(report.data.class_names if counted else ()):
        clean = {model: entry.clean[index] / max(entry.n[index], 1) for model, entry in counted.items()}
        attacked = {
            model: entry.attacked[index] / max(entry.n[index], 1)
            for model, entry in counted.items()
            if entry.attacked is not None
        }
        n = next(iter(counted.values())).n[index]
        trained = None if report.data.class_counts is None else report.data.class_counts[index]
        rows.append(ClassRow(name, trained, n, clean, attacked))
    return sorted(rows, key=lambda row: (row.attacked or row.clean).get(Role.HARDENED, 1.0))


def confusions(report: Report) -> dict[str, ConfusionTable]:
    """Return, by model, what the universal attack that is strongest against it makes of the test images."""
    found = {}
    names = report.data.class_names
    for model in models_of(report):
        entry = (report.classes or {}).get(model)
        if entry is None or entry.attacked is None:
            continue
        counts = {(pair.true, pair.predicted): pair.count for pair in entry.confusions}
        matrix = []
        if len(names) <= MATRIX_CLASSES and not entry.omitted:
            diagonal = {(index, index): count for index, count in enumerate(entry.attacked)}
            everything = counts | diagonal
            matrix = [[everything.get((row, column), 0) for column in range(len(names))] for row in range(len(names))]
        pairs = [(names[true], names[predicted], count) for (true, predicted), count in counts.items()]
        found[model] = ConfusionTable(str(entry.column or ""), entry.attack, matrix, pairs[:LISTED_CONFUSIONS])
    return found


def layer_rows(report: Report) -> list[tuple[str, float, float, bool]]:
    """Return each layer in the model's order: name, contribution, its share of the largest, whether it was chosen."""
    contributions = report.sensitivity or {}
    chosen = set(report.adaptation.layers if report.adaptation is not None else ())
    largest = max([*contributions.values(), 1e-12])
    return [(name, rise, rise / largest, name in chosen) for name, rise in contributions.items()]


def throughput(report: Report) -> list[tuple[str, float]]:
    """Return training images a second of every stage in the history: the median over its epochs."""
    seconds: dict[str, list[float]] = {}
    for record in report.history or []:
        seconds.setdefault(record.stage, []).append(record.seconds)
    images = report.data.sizes.train
    return [(stage, images / max(sorted(epochs)[len(epochs) // 2], 1e-9)) for stage, epochs in seconds.items()]


def cost_rows(report: Report) -> list[tuple[str, str]]:
    """Return memory and energy in words; what could not be read is said with the reason."""
    cost = report.cost
    if cost is None:
        return []
    rows = [("Peak main memory of the process", _memory(cost.peak_memory))]
    rows += [(f"Peak memory on {gpu.name}", _memory(gpu.peak_memory)) for gpu in cost.gpus]
    parts = {"Energy of the CPU packages": cost.energy.cpu}
    parts |= {"Energy of the GPUs": cost.energy.gpu} if cost.gpus else {}
    for words, energy in parts.items():
        if energy.joules is None:
            rows.append((words, f"not readable: {energy.reason}"))
        else:
            kilojoules, watt_hours = energy.joules / 1000, energy.joules / 3600
            whole = "whole package, other processes included"
            rows.append((words, f"{kilojoules:,.1f} kJ ({watt_hours:,.2f} Wh), {whole}"))
    return rows


def _memory(peak: int | None) -> str:
    return "not readable on this machine" if peak is None else f"{peak / 2**20:,.0f} MiB"


def flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as (dotted name, value) pairs; lists as their elements."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            rows.append((prefix + name, ", ".join(_plain(item) for item in value) or "none"))
        else:
            rows.append((prefix + name, _plain(value)))
    return rows


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
