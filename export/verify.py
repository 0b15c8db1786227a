"""Replay a bundle's saved perturbations on its ONNX file and hold the figures against its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from genaf_sdk.data.alignment import aligned
from genaf_sdk.errors import DataError, ExportError
from genaf_sdk.export.parity import replay
from genaf_sdk.export.runtime import MODEL_FILE
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Score

if TYPE_CHECKING:
    from genaf_sdk.data import DataSplits


@dataclass(frozen=True)
class Verification:
    """One row of the report against its replay.

    Args:
        reported: The row.
        correct: How many of the row's n images the ONNX file gets right under the same perturbation.
    """

    reported: Score
    correct: int

    @property
    def accuracy(self) -> float:
        """Replayed accuracy, a share in [0, 1]."""
        return self.correct / self.reported.n

    @property
    def agrees(self) -> bool:
        """Whether the replayed accuracy lies in the reported one's 95 % interval."""
        low, high = self.reported.interval
        return low <= self.accuracy <= high


def verify_bundle(folder: str | Path, data: DataSplits) -> list[Verification]:
    """Replay every perturbation of the report through ``model.onnx`` with onnxruntime.

    Args:
        folder: What ``harden(..., output_dir=...)`` left.
        data: The report's data; its fingerprint must be the report's.

    Raises:
        DataError: These are not the images or the classes that the report was made with.
        ExportError: The report has no row that can be replayed, or a perturbation is missing.
        OutputError: A file is missing or damaged.
    """
    report = RobustnessReport.load(folder)
    data = aligned(data, report.data["class_names"], model="the report")
    found = data.fingerprint
    if found != report.data["fingerprint"]:
        raise DataError(
            f"The data {data.name!r} has the fingerprint {found[:12]}, the report's has "
            f"{report.data['fingerprint'][:12]}.",
            expected=f"the images of {report.data['name']!r} in the same splits and at the same size",
        )
    rows = [s for s in report.scores if s.model == "hardened" and (s.column == "clean" or s.perturbation)]
    missing = sorted({s.perturbation for s in rows if s.perturbation} - set(report.perturbations))
    if missing or not rows:
        raise ExportError(f"{folder} lacks {missing or 'rows to replay'}.", expected="the bundle as it was written")
    wanted = {s.perturbation: report.perturbations[s.perturbation] for s in rows if s.perturbation}
    replayed = replay(Path(folder) / MODEL_FILE, data, wanted, samples=rows[0].n, seed=report.seed)
    correct = {row["perturbation"]: int(row["correct"]) for row in replayed}
    return [Verification(score, correct[score.perturbation]) for score in rows]
