"""``genaf harden`` and ``genaf demo``, with every setting."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from rich.text import Text

from genaf_sdk.cli.arguments import DemoArguments, HardenArguments
from genaf_sdk.cli.output import CHECK_FAILED, DONE, console, is_first_process
from genaf_sdk.config import HardenConfig
from genaf_sdk.methods import presets
from genaf_sdk.terminal import printable


@dataclass(frozen=True)
class Harden(HardenArguments):
    """Fine-tune an encoder into a hardened classifier, attack it, and write model, ONNX file and report."""

    preset: Annotated[str, tyro.conf.arg(metavar="|".join(presets()))] = "default"
    """Settings to start from (`genaf compare --list` describes them); every one can be overridden below."""
    settings: Annotated[HardenConfig, tyro.conf.arg(name="")] = field(default_factory=HardenConfig)

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.pipeline import harden

        started = time.monotonic()
        result = harden(
            self.encoder,
            self.data,
            self.settings,
            output_dir=self.output_dir,
            progress=not self.quiet,
            resume=self.resume,
            overwrite=self.overwrite,
            log_with=self.log_with or None,
        )
        if result.report is None or not is_first_process():
            return DONE
        self.answer_report(result.report)
        if not self.json:
            parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in result.seconds.items())
            if result.report.onnx is not None:
                console().print(result.report.onnx.text)
            if result.advice:
                console().print(result.advice)
            console().print(f"{time.monotonic() - started:.0f} s: {parts}. Everything is in {self.output_dir}.")
        return CHECK_FAILED if result.report.failures else DONE


@dataclass(frozen=True)
class Check(Harden):
    """Try encoder, data, attacks, export, output folder, memory and time of a run, in seconds; train nothing."""

    def __call__(self) -> int:
        """Run."""
        from dataclasses import asdict

        from genaf_sdk.pipeline import check

        findings = check(self.encoder, self.data, self.settings, output_dir=self.output_dir)
        marks = {"error": "red", "warning": "yellow", "note": "green"}
        lines = []
        for finding in findings:
            remedy = f" To do: {finding.remedy}." if finding.remedy else ""
            mark = Text(f"{finding.level:8}", style=marks[finding.level])
            lines.append(mark + Text(printable(f"{finding.subject}: {finding.text}{remedy}")))
        content = [{k: v for k, v in asdict(finding).items() if k != "error"} for finding in findings]
        self.answer(content, *lines)
        return CHECK_FAILED if any(finding.level == "error" for finding in findings) else DONE


@dataclass(frozen=True)
class Demo(DemoArguments, Harden):
    """Harden the bundled SimCLR encoder on scanned digits: no download, no GPU, under ten minutes on two CPU cores."""

    def __call__(self) -> int:
        """Run, and say what to look at next."""
        code = super().__call__()
        if not self.json and is_first_process():
            folder = self.output_dir
            console().print(f"Look at {folder / 'report.html'}. Then: `genaf verify {folder}` replays the report on")
            console().print(f"model.onnx, `genaf serve {folder}` serves it, `genaf harden --help` takes your encoder.")
        return code
