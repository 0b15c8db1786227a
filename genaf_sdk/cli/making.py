"""Commands that make things: ``genaf harden``, ``export`` and ``push``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from genaf_sdk.cli.output import console, show_report
from genaf_sdk.config import HardenConfig


@dataclass(frozen=True)
class Harden:
    """Fine-tune an encoder into a hardened classifier, attack it, and write model, ONNX file and report.

    Without arguments: the bundled SimCLR encoder on scikit-learn's digits, in about three minutes on two CPU cores.
    """

    output_dir: Path = Path("genaf-output")
    """Folder for model.safetensors, config.json, model.onnx, report.json and perturbations/."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18."""
    data: str = "digits"
    """Data id, or a folder CLASS/IMAGE or train|val|test/CLASS/IMAGE."""
    preset: str = "default"
    """Settings to start from: default, fast, paper, or a baseline (`genaf compare --list`). Each can be overridden."""
    config: Path | None = None
    """JSON file of settings, as under "config" in report.json; takes the place of the preset."""
    settings: Annotated[HardenConfig, tyro.conf.arg(name="")] = field(default_factory=HardenConfig)

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.pipeline import harden

        result = harden(self.encoder, self.data, self.settings, output_dir=self.output_dir)
        if result.report is not None:
            show_report(result.report)
            console().print(result.report.sections["onnx"]["text"])
        parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in result.seconds.items())
        console().print(f"{sum(result.seconds.values()):.0f} s: {parts}. Everything is in {self.output_dir}.")
        return 0


@dataclass(frozen=True)
class Export:
    """Write a hardened model as ONNX and compare the file with it."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder or Hub id of a hardened model."""
    output: Annotated[Path, tyro.conf.Positional] = Path("model.onnx")
    """File to write."""

    def __call__(self) -> int:
        """Run."""
        import torch

        from genaf_sdk.export.parity import check_parity
        from genaf_sdk.export.to_onnx import export_onnx
        from genaf_sdk.model import HardenedModel

        model = HardenedModel.from_pretrained(self.model)
        path = export_onnx(model, self.output)
        images = torch.rand(5, model.encoder.channels, *model.image_size, generator=torch.Generator().manual_seed(0))
        parity = check_parity(model, path, images)
        console().print(f"{path}: {parity.text}")
        return 0


@dataclass(frozen=True)
class Push:
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
        console().print(url)
        return 0
