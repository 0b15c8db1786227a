"""What ``harden`` returns: the classifier, its report, and how it came about."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.run import RangeTest
from genaf_sdk.export.bundle import write_bundle
from genaf_sdk.export.hub import push_bundle
from genaf_sdk.files import require_writable
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.models.classifier import describe_architecture
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.fingerprint import fingerprint
from genaf_sdk.report.provenance import settings_digest
from genaf_sdk.report.reading import plain
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import lowest_accuracy

if TYPE_CHECKING:
    from genaf_sdk.methods.adaptability import Adaptation


LONGEST = "strict"
FEW_IMAGES, FAR_LESS = 5_000, 0.1


@dataclass
class HardenResult:
    """What ``harden`` returns.

    Args:
        model: The hardened classifier, in eval mode, on the CPU.
        report: What it withstands; None if ``evaluate=False`` was asked for.
        published: The public encoder, before hardening.
        undefended: The same encoder fine-tuned without defense ("before"), or None.
        data: The images that were used.
        config: The settings that were used.
        findings: What the method found on the way, by name.
        history: One record an epoch.
        seconds: Duration of each part; parts may overlap.
        range_tests: What decided on the encoder's learning rate, by stage.
    """

    model: HardenedModel
    report: RobustnessReport | None
    published: PixelEncoder
    undefended: HardenedModel | None
    data: DataSplits
    config: HardenConfig
    findings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    range_tests: dict[str, RangeTest] = field(default_factory=dict)

    @property
    def sensitivity(self) -> dict[str, float]:
        """Layer -> rise of the adversarial loss: what each layer contributes to robustness; empty if not measured."""
        return dict(self.findings.get("sensitivity", {}))

    @property
    def adaptation(self) -> Adaptation | None:
        """What stage 2 trained and kept; None where there was none."""
        found: Adaptation | None = self.findings.get("adaptation")
        return found

    @property
    def advice(self) -> str:
        """What to try next where one perturbation for all images leaves far less than clean images; else empty.

        More passes over few images are what helped most in ``benchmarks/robustness.py``.
        """
        clean = None if self.report is None else self.report.strongest_attack(Knowledge.CLEAN)
        if self.report is None or clean is None:
            return ""
        columns = Knowledge.TRANSFER, Knowledge.ADAPTIVE
        rows = [
            row for row in self.report.rows() if row.column in columns and row.perturbation and row.threat == "linf"
        ]
        worst, longest = lowest_accuracy(rows), HardenConfig.preset(LONGEST).method.schedule.epochs
        few, short = len(self.data.train) <= FEW_IMAGES, self.config.method.schedule.epochs < longest
        if worst is None or clean.accuracy - worst.accuracy < FAR_LESS or not (few and short):
            return ""
        return (
            f"One perturbation for all images ({worst.attack}, {worst.column}) leaves {worst.accuracy:.1%} of "
            f"{clean.accuracy:.1%}. The preset {LONGEST!r} has {longest} epochs, which keep more where images are few."
        )

    def save(self, folder: str | Path) -> Path:
        """Write the model, its ONNX file and the report with its perturbations into ``folder`` and return it.

        The ONNX file is compared with the model, and the perturbations are replayed through it with onnxruntime, so
        that the report's figures stand for the file that is served.

        Raises:
            ExportError: The ONNX file differs from the model.
            OutputError: The folder cannot be written.
        """
        return write_bundle(self.model, require_writable(Path(folder)), self)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish the whole bundle on the Hugging Face Hub in one commit and return its URL.

        Args:
            repo_id: ``ORG/NAME``; made if it does not exist.
            **options: ``private``, ``revision``, ``create_pr``, ``token`` and the others of
                ``genaf_sdk.export.hub.push_bundle``.

        Raises:
            HubError: The Hub refuses; the error says why.
        """
        with tempfile.TemporaryDirectory() as folder:
            return push_bundle(self.save(folder), repo_id, **options)


def provenance(published: PixelEncoder, data: DataSplits, config: dict[str, Any]) -> dict[str, str]:
    """Return what a report's accuracies are of, by hash: encoder, data, settings."""
    return {
        "encoder": published.source or type(published.backbone).__name__,
        "encoder_sha256": fingerprint(published.backbone.state_dict()),
        "data_sha256": data.fingerprint,
        "settings_sha256": settings_digest(plain(config)),
    }


def describe(result: HardenResult) -> dict[str, Any]:
    """Return what the report says beside its scores: model, settings, both stages, cost."""
    adaptation = result.adaptation
    config = result.config.to_dict()
    return {
        "model": describe_architecture(result.model),
        "provenance": provenance(result.published, result.data, config),
        "config": config,
        "sensitivity": result.sensitivity,
        "adaptation": None if adaptation is None else adaptation.to_dict(),
        "history": result.history,
        "range_tests": {stage: found.to_dict() for stage, found in result.range_tests.items()},
        "seconds": result.seconds,
    }
