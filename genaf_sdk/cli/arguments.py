"""What commands that train are given beside settings; names them without loading what trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from genaf_sdk.cli.output import Command, if_given
from genaf_sdk.evaluation.settings import COMPARED, AttackConfig
from genaf_sdk.settings import Count


@dataclass(frozen=True)
class HardenArguments(Command):
    """Fine-tune an encoder into a hardened classifier, attack it, and write model, ONNX file and report."""

    output_dir: Path = Path("genaf-output")
    """Folder for model.safetensors, config.json, model.onnx, report.html, report.json and perturbations/."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18; `genaf encoders` lists them."""
    data: str = "digits"
    """Data id, or a folder CLASS/IMAGE or train|val|test/CLASS/IMAGE."""
    preset: str = "default"
    """Settings to start from (`genaf compare --list` describes them); every one can be overridden below."""
    config: Annotated[Path | None, if_given("FILE")] = None
    """YAML or JSON file of settings (any of those below, and encoder, data, output_dir, preset), or the report.json
    of a run to repeat, with its --encoder and --data. It overrides the preset; options override it."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the last checkpoint in the output folder, with the same encoder, data and settings."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace the checkpoints that an unfinished run left in the output folder."""
    log_with: tuple[str, ...] = ()
    """Trackers that are told of every epoch, beside metrics.jsonl: tensorboard, wandb and others of accelerate."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress."""


@dataclass(frozen=True)
class DemoArguments(HardenArguments):
    """Harden the bundled SimCLR encoder on scanned digits: no download, no GPU, under ten minutes on two CPU cores."""

    output_dir: Path = Path("demo-output")
    """Folder for model.safetensors, config.json, model.onnx, report.html, report.json and perturbations/."""


@dataclass(frozen=True)
class CheckArguments(HardenArguments):
    """Try encoder, data, attacks, export, output folder, memory and time of a run, in seconds; train nothing."""


@dataclass(frozen=True)
class CompareArguments(Command):
    """Train several methods on the same data, put each under the same attacks, and print one table.

    A comparison that was stopped goes on where it was when it is started again with the same arguments.
    """

    methods: tuple[str, ...] = ("default", "fast", "fine-tuning", "pgd-at", "trades")
    """Names of presets; --list describes them."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18; `genaf encoders` lists them."""
    data: str = "digits"
    """Data id, or a folder CLASS/IMAGE or train|val|test/CLASS/IMAGE."""
    seeds: tuple[int, ...] = (0,)
    """One run for each; the table shows mean and standard deviation."""
    output_dir: Path = Path("genaf-comparison")
    """Folder for comparison.jsonl, comparison.md and comparison.svg."""
    workers: Count = 1
    """Processes that share the runs and this machine's threads; more take as much more memory."""
    config: Annotated[Path | None, if_given("FILE")] = None
    """YAML or JSON file of settings as for `genaf harden`, of which encoder, data and what stands below counts, or a
    report.json, with its --encoder and --data. Options override it."""
    settings: Annotated[AttackConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: COMPARED)
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """List the methods, what they protect against and what they leave open, and end."""
