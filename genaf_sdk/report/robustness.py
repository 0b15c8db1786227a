"""RobustnessReport: the data of a report, what they amount to, and the files that they are kept in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from genaf_sdk.files import read_json, replacing, write_json
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.data import Report
from genaf_sdk.report.html import html_report
from genaf_sdk.report.scores import Failure
from genaf_sdk.report.terminal import table
from genaf_sdk.report.verdict import limits, verdict

if TYPE_CHECKING:
    from rich.table import Table

REPORT_FILE, HTML_FILE, PERTURBATION_FOLDER = "report.json", "report.html", "perturbations"

logger = logging.getLogger(__name__)


@dataclass
class RobustnessReport(Report):
    """What ``evaluate`` and ``harden`` return: the sections of ``Report``, a verdict, and its limits.

    ``report.data``, ``report.scores`` and the other sections are typed; ``genaf_sdk/report/schema.json`` describes
    each of them as it stands in ``report.json``.
    """

    derived: ClassVar[dict[str, str]] = {"verdict": "verdict", "limits": "limits"}

    @property
    def verdict(self) -> str:
        """Clean accuracy and the lowest one, then that of every column; failed sanity checks are said before it."""
        return verdict(self)

    @property
    def limits(self) -> list[str]:
        """What the accuracies do not cover, one sentence each."""
        return limits(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain objects, ready for JSON."""
        content = super().to_dict()
        first = {name: content[name] for name in ("schema", "verdict", "limits")}
        return first | content

    def save(self, folder: str | Path) -> Path:
        """Write ``report.json``, ``report.html`` and ``perturbations/NAME.safetensors``; return the JSON's path.

        Where the page cannot be drawn, that is named in ``failures``, and the rest is written.

        Raises:
            OutputError: The folder cannot be written.
        """
        folder = Path(folder)
        for name, perturbation in self.perturbations.items():
            perturbation.save(folder / PERTURBATION_FOLDER / f"{name}.safetensors")
        self.failures = [failure for failure in self.failures if failure.part != "report"]
        write_json(folder / REPORT_FILE, self.to_dict())
        try:
            page = html_report(self)
        except Exception as error:  # whatever it is, the figures are not lost to how they look
            self.failures.append(Failure("report", HTML_FILE, f"{type(error).__name__}: {error}"))
            logger.error("%s", self.failures[-1].text)
            write_json(folder / REPORT_FILE, self.to_dict())
        else:
            self._write_page(folder / HTML_FILE, page)
        return folder / REPORT_FILE

    def save_html(self, path: str | Path) -> None:
        """Write the report as one HTML file that loads nothing from elsewhere."""
        self._write_page(Path(path), html_report(self))

    @staticmethod
    def _write_page(path: Path, page: str) -> None:
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return the page as a notebook shows it: in a frame that runs nothing."""
        return (
            f'<iframe srcdoc="{escape(html_report(self))}" sandbox="" title="Robustness report" '
            'style="width: 100%; height: 40rem; border: 1px solid #8888"></iframe>'
        )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what ``save`` wrote, perturbations included.

        Raises:
            OutputError: A file is missing or damaged; the error says where.
        """
        report = cls.from_dict(read_json(Path(folder) / REPORT_FILE))
        for path in sorted((Path(folder) / PERTURBATION_FOLDER).glob("*.safetensors")):
            report.perturbations[path.stem] = Perturbation.load(path)
        return report

    def table(self) -> Table:
        """Return the rows as a table for a terminal: the baseline beside the hardened model."""
        return table(self)
