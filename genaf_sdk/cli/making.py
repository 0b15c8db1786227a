"""Commands that make things: ``genaf demo``, ``harden`` and ``push``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from genaf_sdk.cli.output import DONE, Command, console, is_first_process
from genaf_sdk.config import HardenConfig
from genaf_sdk.presets import PRESETS


@dataclass(frozen=True)
class Harden(Command):
    """Fine-tune an encoder into a hardened classifier, attack it, and write model, ONNX file and report."""

    output_dir: Path = Path("genaf-output")
    """Folder for model.safetensors, config.json, model.onnx, report.html, report.json and perturbations/."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18; `genaf encoders` lists them."""
    data: str = "digits"
    """Data id, or a folder CLASS/IMAGE or train|val|test/CLASS/IMAGE."""
    preset: Annotated[str, tyro.conf.arg(metavar="|".join(PRESETS))] = "default"
    """Settings to start from (`genaf compare --list` describes them); every one can be overridden below."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """YAML or JSON file of settings (any of those below, and encoder, data, output_dir, preset), or the report.json
    of a run to repeat. It overrides the preset; options override it."""
    resume: bool = False
    """Go on from the last checkpoint in the output folder, with the same encoder, data and settings."""
    log_with: tuple[str, ...] = ()
    """Trackers that are told of every epoch, beside metrics.jsonl: tensorboard, wandb and others of accelerate."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""
    settings: Annotated[HardenConfig, tyro.conf.arg(name="")] = field(default_factory=HardenConfig)

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.pipeline import harden

        result = harden(
            self.encoder,
            self.data,
            self.settings,
            output_dir=self.output_dir,
            progress=not self.quiet,
            resume=self.resume,
            log_with=self.log_with or None,
        )
        if result.report is None or not is_first_process():
            return DONE
        self.answer_report(result.report)
        if not self.json:
            parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in result.seconds.items())
            console().print(result.report.sections["onnx"]["text"])
            console().print(f"{sum(result.seconds.values()):.0f} s: {parts}. Everything is in {self.output_dir}.")
        return DONE


@dataclass(frozen=True)
class Demo(Harden):
    """Harden the bundled SimCLR encoder on scanned digits: no download, no GPU, a few minutes on two CPU cores."""

    output_dir: Path = Path("demo-output")
    """Folder for model.safetensors, config.json, model.onnx, report.html, report.json and perturbations/."""

    def __call__(self) -> int:
        """Run, and say what to look at next."""
        code = super().__call__()
        if not self.json and is_first_process():
            folder = self.output_dir
            console().print(f"Look at {folder / 'report.html'}. Then: `genaf verify {folder}` replays the report on")
            console().print(f"model.onnx, `genaf serve {folder}` serves it, `genaf harden --help` takes your encoder.")
        return code


@dataclass(frozen=True)
class Push(Command):
    """Publish a bundle on the Hugging Face Hub, in one commit."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """Folder that `genaf harden` left."""
    repo: Annotated[str, tyro.conf.Positional]
    """ORG/NAME; made if it does not exist."""
    private: bool = False
    """Make a new repository private."""
    revision: str | None = None
    """Branch to commit to."""
    create_pr: bool = False
    """Open a pull request instead."""

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.export.hub import push_bundle

        url = push_bundle(
            self.bundle, self.repo, private=self.private or None, revision=self.revision, create_pr=self.create_pr
        )
        self.answer({"url": url}, url)
        return DONE
