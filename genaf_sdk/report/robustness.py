"""RobustnessReport: what was measured, how, and everything that is needed to measure it again."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from genaf_sdk.errors import OutputError
from genaf_sdk.files import read_json, replacing, write_json
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.scores import Check, CurvePoint, Score
from genaf_sdk.report.tables import attack_rows
from genaf_sdk.report.verdict import limits, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

SCHEMA = 1
REPORT_FILE, HTML_FILE, PERTURBATION_FOLDER = "report.json", "report.html", "perturbations"
PACKAGES = ("genaf-sdk", "torch", "torchvision", "accelerate", "timm", "onnx", "onnxruntime", "onnxruntime-gpu")


def environment() -> dict[str, str]:
    """Return the versions that figures depend on, and the machine."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class RobustnessReport:
    """Scores of one evaluation, the perturbations behind them, and what a replay needs.

    Args:
        data: ``DataSplits.describe()``: sizes, classes, fingerprint.
        scores: One row per model, column and attack.
        curve: Accuracy against budget.
        checks: Signs of gradient masking that were looked for.
        perturbations: What was crafted, by the key that scores refer to. Saved beside the JSON, not in it.
        notes: What a reader must know to read the figures right.
        seed: Of the evaluation.
        sections: What else belongs to the run: model, configuration, training history, sensitivity, ONNX parity, cost.
        versions: Software and machine.
    """

    data: dict[str, Any]
    scores: list[Score]
    curve: list[CurvePoint] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    perturbations: dict[str, Perturbation] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seed: int = 0
    sections: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=environment)

    def accuracy(self, column: str, model: str = "hardened") -> float:
        """Return the lowest accuracy of ``model`` over the attacks of one column.

        Raises:
            KeyError: The column holds no row of that model.
        """
        return self.worst([s for s in self.scores if s.column == column and s.model == model]).accuracy

    @staticmethod
    def worst(scores: Iterable[Score]) -> Score:
        """Return the row of lowest accuracy.

        Raises:
            KeyError: There is none.
        """
        rows = sorted(scores, key=lambda score: score.accuracy)
        if not rows:
            raise KeyError("no such row in the report")
        return rows[0]

    def worst_of(self, column: str, model: str = "hardened") -> Score | None:
        """Return the row of lowest accuracy of one model in one column, or None where the column is empty."""
        rows = [score for score in self.scores if score.column == column and score.model == model]
        return self.worst(rows) if rows else None

    @property
    def verdict(self) -> str:
        """The worst figure of every column in one sentence; failed sanity checks are said before it."""
        return verdict(self)

    @property
    def limits(self) -> list[str]:
        """What the figures do not cover, one sentence each."""
        return limits(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain objects, ready for JSON."""
        return {
            "schema": SCHEMA,
            "verdict": self.verdict,
            "limits": self.limits,
            "data": self.data,
            "scores": [score.to_dict() for score in self.scores],
            "curve": [{**dataclasses.asdict(point), "accuracy": point.accuracy} for point in self.curve],
            "checks": [dataclasses.asdict(check) for check in self.checks],
            "notes": self.notes,
            "seed": self.seed,
            "versions": self.versions,
            **self.sections,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RobustnessReport:
        """Read what ``to_dict`` gave; perturbations are not part of it.

        Raises:
            OutputError: The content is no report, or one of another schema.
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise OutputError(f"The report has schema {schema!r}.", expected=f"schema {SCHEMA}")
        rest = dict(content)
        names = {f.name for f in dataclasses.fields(Score)}
        try:
            return cls(
                data=rest.pop("data"),
                scores=[Score(**{k: v for k, v in row.items() if k in names}) for row in rest.pop("scores")],
                curve=[CurvePoint(**{k: v for k, v in row.items() if k != "accuracy"}) for row in rest.pop("curve")],
                checks=[Check(**row) for row in rest.pop("checks")],
                notes=rest.pop("notes"),
                seed=rest.pop("seed"),
                versions=rest.pop("versions"),
                sections={k: v for k, v in rest.items() if k not in ("schema", "verdict", "limits")},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise OutputError(f"The report is damaged: {error!r}.", expected="a report.json of this package") from error

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``report.html`` and ``perturbations/NAME.safetensors``; return the JSON's path."""
        folder = Path(folder)
        for name, perturbation in self.perturbations.items():
            perturbation.save(folder / PERTURBATION_FOLDER / f"{name}.safetensors")
        write_json(folder / REPORT_FILE, self.to_dict())
        self.save_html(folder / HTML_FILE)
        return folder / REPORT_FILE

    def save_html(self, path: str | Path) -> None:
        """Write the report as one HTML file that loads nothing from elsewhere."""
        from genaf_sdk.report.html import html_report

        with replacing(Path(path)) as temporary:
            temporary.write_text(html_report(self), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> RobustnessReport:
        """Read what ``save`` wrote, perturbations included.

        Raises:
            OutputError: A file is missing or damaged.
        """
        report = cls.from_dict(read_json(Path(folder) / REPORT_FILE))
        for path in sorted((Path(folder) / PERTURBATION_FOLDER).glob("*.safetensors")):
            report.perturbations[path.stem] = Perturbation.load(path)
        return report

    def table(self) -> Table:
        """Return the rows as a table for a terminal: undefended beside hardened."""
        table = Table(title="Test accuracy, 95 % interval, n", title_justify="left")
        models = [name for name in ("undefended", "hardened") if any(s.model == name for s in self.scores)]
        for heading in ("column", "attack", "budget"):
            table.add_column(heading)
        for name in models:
            table.add_column(name, justify="right")
        clean = [self.worst_of("clean", name) for name in models]
        if any(clean):
            table.add_row("clean", "", "", *map(_cell, clean))
        for column, rows in attack_rows(self).items():
            for row in rows:
                label = row.name + (f" ({row.crafted_on})" if row.crafted_on in ("surrogate", "replayed") else "")
                table.add_row(column, label, row.budget, *(_cell(row.scores.get(name)) for name in models))
        return table


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    low, high = score.interval
    return f"{score.accuracy:.1%} [{low:.1%}, {high:.1%}] {score.n}"
