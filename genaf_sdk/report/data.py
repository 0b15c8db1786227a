"""Report: everything that was measured, as data. What is said about it stands in the renderers above."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, ClassVar, Self

from genaf_sdk.errors import OutputError
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.certificate import CertificateSection
from genaf_sdk.report.corruptions import CorruptionSection
from genaf_sdk.report.exported import OnnxSection
from genaf_sdk.report.provenance import ProvenanceSection
from genaf_sdk.report.reading import Amount, fields_of, plain, read, read_document
from genaf_sdk.report.scores import Check, CurvePoint, Failure, Role, Score, lowest_accuracy
from genaf_sdk.report.sections import (
    AdaptationSection,
    ClassCounts,
    Config,
    CostSection,
    DataDescription,
    EpochRecord,
    GallerySection,
    ModelDescription,
    RangeTestSection,
)
from genaf_sdk.settings import Between

SCHEMA = 1
PACKAGES = (
    *("genaf-sdk", "torch", "torchvision", "accelerate", "timm", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("matplotlib", "pillow"),
)


def environment() -> dict[str, str]:
    """Return the versions that figures and pages depend on, and the machine."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass
class Report:
    """What one evaluation measured, and what a replay needs.

    Args:
        data: The images of the task.
        scores: One row for each model and attack.
        curve: Accuracy against budget.
        checks: Signs of gradient masking that were looked for.
        notes: What a reader must know to read the accuracies right.
        seed: Random seed of the evaluation.
        versions: Versions of software, and the machine.
        failures: Attacks and files that could not be had, each with the reason.
        model: The hardened model. This and the following are there where the report comes from a hardening run.
        provenance: Encoder, data and settings, each by its hash.
        config: All settings, as ``HardenConfig.from_dict`` reads them.
        history: One record an epoch.
        range_tests: How the encoder's learning rate was chosen, by stage; empty where it was given.
        seconds: Duration of each part of the run; parts may overlap.
        sensitivity: Layer to the rise of its adversarial loss: what the layer contributes to robustness.
        adaptation: Stage 2; missing or null where it did not run.
        cost: Memory and energy of the run.
        classes: Right predictions by class, for each model.
        certificate: What is proven of the hardened model, apart from what was measured.
        corruptions: Accuracy on commonly corrupted images.
        gallery: Test images for the gallery of report.html.
        onnx: The exported files: difference from the model, accuracies under the saved perturbations, variants.
        perturbations: What was crafted, by the name that rows refer to. Saved beside the JSON, not in it.
    """

    open: ClassVar[bool] = True  # sections may be added under the same schema

    data: DataDescription
    scores: list[Score]
    curve: list[CurvePoint] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    versions: dict[str, str] = field(default_factory=environment)
    failures: list[Failure] = field(default_factory=list)
    model: ModelDescription | None = None
    provenance: ProvenanceSection | None = None
    config: Config | None = None
    history: list[EpochRecord] | None = None
    range_tests: dict[str, RangeTestSection] | None = None
    seconds: dict[str, Amount] | None = None
    sensitivity: dict[str, Amount] | None = None
    adaptation: AdaptationSection | None = None
    cost: CostSection | None = None
    classes: dict[str, ClassCounts] | None = None
    certificate: CertificateSection | None = None
    corruptions: CorruptionSection | None = None
    gallery: GallerySection | None = None
    onnx: OnnxSection | None = None
    perturbations: dict[str, Perturbation] = field(default_factory=dict, metadata={"written": False})

    def __post_init__(self) -> None:
        self._check()

    def complete(self, sections: dict[str, Any]) -> None:
        """Set sections from plain objects, as they stand in ``report.json``.

        Raises:
            OutputError: There is no such section, or it does not hold what the schema says.
        """
        hints = {name: (entry.name, hint) for entry, hint, name in fields_of(type(self))}
        for name, content in sections.items():
            if name not in hints:
                raise OutputError(f"A report has no section {name!r}.", expected=f"one of {', '.join(hints)}")
            attribute, hint = hints[name]
            setattr(self, attribute, read(hint, plain(content), name))
        self._check()

    def rows(self, column: str | None = None, model: str = Role.HARDENED) -> list[Score]:
        """Return the rows of one model, of one column or of all."""
        return [s for s in self.scores if s.model == model and (column is None or s.column == column)]

    def strongest_attack(self, column: str, model: str = Role.HARDENED) -> Score | None:
        """Return the row of lowest accuracy of one model in one column; None where the column is empty."""
        return lowest_accuracy(self.rows(column, model))

    def accuracy(self, column: str, model: str = Role.HARDENED) -> float:
        """Return the lowest accuracy of ``model`` over the attacks of one column.

        Raises:
            KeyError: The column holds no row of that model.
        """
        row = self.strongest_attack(column, model)
        if row is None:
            raise KeyError(f"the report has no row of the {model} model in the column {column}")
        return row.accuracy

    def to_dict(self) -> dict[str, Any]:
        """Return plain objects, ready for JSON."""
        return {"schema": SCHEMA, **plain(self)}

    @classmethod
    def from_dict(cls, content: Any) -> Self:
        """Read what ``to_dict`` gave; perturbations are not part of it.

        Raises:
            OutputError: The content is no report, one of another schema, or damaged; the error says where.
        """
        schema = content.get("schema") if isinstance(content, dict) else None
        if type(schema) is not int or schema != SCHEMA:
            raise OutputError(f"The report has schema {schema!r:.100}.", expected=f"schema {SCHEMA}")
        return read_document(cls, {name: value for name, value in content.items() if name != "schema"}, "report")

    def _check(self) -> None:
        """Refuse sections that do not belong to the data."""
        count = len(self.data.class_names)
        for model, counted in (self.classes or {}).items():
            indices = [index for pair in counted.confusions for index in (pair.true, pair.predicted)]
            if len(counted.n) != count or max(indices, default=0) >= count:
                raise OutputError(
                    f"classes.{model} counts {len(counted.n)} classes.", expected=f"{count}, as in the data"
                )
        gallery = self.gallery
        if gallery is not None:
            shown = [image.label for image in gallery.images]
            shown += [index for models in gallery.predictions.values() for found in models.values() for index in found]
            if max(shown, default=0) >= count:
                raise OutputError(f"The gallery names the class {max(shown)}.", expected=f"0 to {count - 1}")


def missing_columns(report: Report, model: str = Role.HARDENED) -> list[Knowledge]:
    """Return the columns in which ``model`` has no row."""
    present = {score.column for score in report.rows(model=model)}
    return [column for column in Knowledge if column not in present]
