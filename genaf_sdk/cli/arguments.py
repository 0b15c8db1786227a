"""What ``genaf harden`` and ``genaf demo`` are given beside settings; names them without loading what trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from genaf_sdk.cli.output import Command, if_given


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
