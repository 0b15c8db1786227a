"""What the written forms of a report put into their tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genaf_sdk.report.scores import Score
from genaf_sdk.report.verdict import COLUMNS, budget_text

if TYPE_CHECKING:
    from genaf_sdk.report.robustness import RobustnessReport
    from genaf_sdk.report.scores import Column

KNOWLEDGE: dict[Column, str] = {
    "clean": "The test images as they are.",
    "noise": "Random noise of the same budget: no attacker, a floor for the others.",
    "transfer": "The attacker crafts one perturbation on the published encoder (the paper's threat model).",
    "adaptive": "The attacker crafts one perturbation on the attacked model's own encoder.",
    "white-box": "The attacker knows the whole model and, for some attacks, perturbs every image by itself.",
}
"""What the attacker of each column knows."""
MATRIX_CLASSES, LISTED_CLASSES, LISTED_CONFUSIONS = 20, 30, 20
"""Up to so many classes a matrix is drawn; so many classes and confusions are listed, the worst first."""


@dataclass(frozen=True)
class AttackRow:
    """One attack: its budget in words, the images it was crafted on, and a score by model where there is one.

    ``run`` counts attacks of the same name, budget and images, which differ in other settings, from 1.
    """

    attack: str
    budget: str
    crafted_on: str
    run: int
    scores: dict[str, Score]

    @property
    def name(self) -> str:
        """The attack's name, told from others of the same name by a number."""
        return self.attack if self.run == 1 else f"{self.attack} ({self.run})"


@dataclass(frozen=True)
class ClassRow:
    """One class: its name, training images (where known), test images, and accuracies by model in [0, 1]."""

    name: str
    trained: int | None
    n: int
    clean: dict[str, float]
    attacked: dict[str, float]


@dataclass(frozen=True)
class Confusion:
    """What the worst universal attack makes one model say: a matrix (true, predicted), or its most frequent errors."""

    column: str
    attack: str
    matrix: list[list[int]]
    pairs: list[tuple[str, str, int]]


def models_of(report: RobustnessReport) -> dict[str, str]:
    """Return the models in the report, before hardening first, with the word that heads their column."""
    present = {score.model for score in report.scores}
    words = {"undefended": "Before", "hardened": "After"} if "undefended" in present else {"hardened": "Model"}
    return {model: word for model, word in words.items() if model in present}


def summary_rows(report: RobustnessReport) -> list[tuple[Column, dict[str, Score | None]]]:
    """Return every column with the worst row of each model; None where it was not measured."""
    return [(column, {model: report.worst_of(column, model) for model in models_of(report)}) for column in COLUMNS]


def attack_rows(report: RobustnessReport) -> dict[Column, list[AttackRow]]:
    """Return all rows by column, the models of one attack side by side; an attack run twice has two rows."""
    found: dict[Column, dict[tuple[Any, ...], AttackRow]] = {}
    for score in report.scores:
        if not score.attack:
            continue
        column = found.setdefault(score.column, {})
        key, run = (score.attack, budget_text(score, report), score.crafted_on), 1
        while (*key, run) in column and score.model in column[*key, run].scores:
            run += 1
        column.setdefault((*key, run), AttackRow(*key, run, {})).scores[score.model] = score
    return {column: list(found[column].values()) for column in COLUMNS if column in found}


def class_rows(report: RobustnessReport) -> list[ClassRow]:
    """Return every class, that with the lowest attacked accuracy of the hardened model first; empty if not counted."""
    counted = report.sections.get("classes") or {}
    rows = []
    for index, name in enumerate(report.data["class_names"] if counted else ()):
        shares: dict[str, dict[str, float]] = {
            kind: {
                model: entry[kind][index] / max(entry["n"][index], 1)
                for model, entry in counted.items()
                if kind in entry
            }
            for kind in ("clean", "attacked")
        }
        n = next(iter(counted.values()))["n"][index]
        trained = report.data["class_counts"][index] if "class_counts" in report.data else None
        rows.append(ClassRow(str(name), trained, n, shares["clean"], shares["attacked"]))
    return sorted(rows, key=lambda row: (row.attacked or row.clean).get("hardened", 1.0))


def confusions(report: RobustnessReport) -> dict[str, Confusion]:
    """Return, by model, what the universal attack that is worst for it makes of the test images."""
    found = {}
    names = [str(name) for name in report.data["class_names"]]
    counted = report.sections.get("classes") or {}
    for model in models_of(report):
        entry = counted.get(model, {})
        if "attacked" not in entry:
            continue
        counts = {(pair["true"], pair["predicted"]): pair["count"] for pair in entry["confusions"]}
        matrix = []
        if len(names) <= MATRIX_CLASSES and not entry["omitted"]:
            diagonal = {(index, index): count for index, count in enumerate(entry["attacked"])}
            everything = counts | diagonal
            matrix = [[everything.get((row, column), 0) for column in range(len(names))] for row in range(len(names))]
        pairs = [(names[true], names[predicted], count) for (true, predicted), count in counts.items()]
        found[model] = Confusion(entry["column"], entry["attack"], matrix, pairs[:LISTED_CONFUSIONS])
    return found


def layer_rows(report: RobustnessReport) -> list[tuple[str, float, float, bool]]:
    """Return each layer in the model's order: name, contribution, its share of the largest, whether it was chosen."""
    contributions: dict[str, float] = report.sections.get("sensitivity") or {}
    chosen = set((report.sections.get("adaptation") or {}).get("layers", ()))
    largest = max([*contributions.values(), 1e-12])
    return [(name, rise, rise / largest, name in chosen) for name, rise in contributions.items()]


def throughput(report: RobustnessReport) -> list[tuple[str, float]]:
    """Return training images a second of every stage in the history: the median over its epochs."""
    seconds: dict[str, list[float]] = {}
    for record in report.sections.get("history") or []:
        seconds.setdefault(str(record["stage"]), []).append(float(record["seconds"]))
    images = report.data["sizes"]["train"]
    return [(stage, images / max(sorted(epochs)[len(epochs) // 2], 1e-9)) for stage, epochs in seconds.items()]


def cost_rows(report: RobustnessReport) -> list[tuple[str, str]]:
    """Return memory and energy in words; what could not be read is said with the reason."""
    cost = report.sections.get("cost")
    if not cost:
        return []
    rows = [("Peak main memory of the process", _memory(cost["peak_memory"]))]
    rows += [(f"Peak memory on {gpu['name']}", _memory(gpu["peak_memory"])) for gpu in cost["gpus"]]
    parts = {"cpu": "Energy of the CPU packages"} | ({"gpu": "Energy of the GPUs"} if cost["gpus"] else {})
    for part, words in parts.items():
        energy = cost["energy"][part]
        if energy["joules"] is not None:
            rows.append((words, f"{energy['joules'] / 1000:,.1f} kJ ({energy['joules'] / 3600:,.2f} Wh), all that ran"))
        else:
            rows.append((words, f"not readable on this machine: {energy['reason']}"))
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
