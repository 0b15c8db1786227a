"""``genaf``: the command line, generated from the settings' dataclasses."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import tyro

from genaf_sdk.config import EvaluationConfig, HardenConfig
from genaf_sdk.errors import ConfigError, GenafError
from genaf_sdk.files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
EPILOGUE = (
    "Exit codes: 0 done; 1 a check failed (verify); 2 something given cannot be used, said in one or two lines; "
    "130 interrupted. --debug before the command shows the traceback."
)


@dataclass(frozen=True)
class Harden:
    """Fine-tune an encoder into a hardened classifier, attack it, and write model, ONNX file and report.

    Without arguments: the bundled SimCLR encoder on scikit-learn's digits, in about two minutes on two CPU cores.
    """

    output_dir: Path = Path("genaf-output")
    """Folder for model.safetensors, config.json, model.onnx, report.json and perturbations/."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id, such as torchvision:resnet18."""
    data: str = "digits"
    """Data id, or a folder CLASS/IMAGE or train|val|test/CLASS/IMAGE."""
    preset: Literal["default", "paper"] = "default"
    """Settings to start from; every one can be overridden below."""
    config: Path | None = None
    """JSON file of settings, as under "config" in report.json; takes the place of the preset."""
    settings: Annotated[HardenConfig, tyro.conf.arg(name="")] = field(default_factory=HardenConfig)

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.pipeline import harden

        result = harden(self.encoder, self.data, self.settings, output_dir=self.output_dir)
        console = _console()
        if result.report is not None:
            _show(console, result.report)
            console.print(result.report.sections["onnx"]["text"])
        parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in result.seconds.items())
        console.print(f"{sum(result.seconds.values()):.0f} s: {parts}. Everything is in {self.output_dir}.")
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Attack a hardened model (a folder that `genaf harden` left, or a Hub id) and write a report."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder or Hub id of a hardened model."""
    data: str = "digits"
    """Data id or image folder, as for `genaf harden`."""
    encoder: str | None = None
    """Published encoder for the transfer column; by default the id that the model was made from."""
    output_dir: Path | None = None
    """Folder for report.json and perturbations/; by default nothing is written."""
    seed: int = 0
    """Of the attacks, and of the validation split."""
    settings: Annotated[EvaluationConfig, tyro.conf.arg(name="")] = field(default_factory=EvaluationConfig)

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.data import load_data
        from genaf_sdk.files import require_writable
        from genaf_sdk.model import HardenedModel
        from genaf_sdk.robustness.evaluate import evaluate

        folder = None if self.output_dir is None else require_writable(self.output_dir)
        model = HardenedModel.from_pretrained(self.model)
        data = load_data(self.data, image_size=model.image_size, channels=model.encoder.channels, seed=self.seed)
        encoder = self.encoder or model.encoder.source or None
        console = _console()
        with console.status("evaluation") as status:
            report = evaluate(
                model, data, encoder=encoder, config=self.settings, seed=self.seed, on_attack=status.update
            )
        _show(console, report)
        if folder is not None:
            report.save(folder)
        return 0


@dataclass(frozen=True)
class Attack:
    """Craft one universal perturbation on an encoder and save it."""

    name: Annotated[str, tyro.conf.Positional]
    """Name of an attack on encoders; an unknown one lists those there are."""
    output: Path = Path("perturbation.safetensors")
    """File to write."""
    encoder: str = "bundled:simclr-cifar10"
    """Encoder id to craft on, or the folder of a hardened model."""
    data: str = "digits"
    """Data whose training images, without labels, serve as surrogate."""
    budget: float | None = None
    """L_inf budget as a share of the pixel range (8/255 is 0.0314), or the area of a patch."""
    samples: int = 1024
    """How many surrogate images."""
    seed: int = 0

    def __call__(self) -> int:
        """Run."""
        from genaf_sdk.attacks import EncoderAttack, load_attack
        from genaf_sdk.data import load_data
        from genaf_sdk.encoders import load_encoder
        from genaf_sdk.errors import AttackError
        from genaf_sdk.model import HardenedModel, PixelEncoder

        attack = load_attack(self.name)
        if not isinstance(attack, EncoderAttack):
            raise AttackError(
                f"{self.name!r} attacks whole models.",
                expected="an attack on encoders",
                remedy="use `genaf evaluate --attacks`",
            )
        attack = attack if self.budget is None else attack.with_budget(self.budget)
        encoder: PixelEncoder
        if Path(self.encoder).is_dir():
            encoder = HardenedModel.from_pretrained(self.encoder).encoder
        else:
            encoder = load_encoder(self.encoder)
        data = load_data(self.data, image_size=encoder.image_size, channels=encoder.channels)
        perturbation = attack(encoder, data.train.head(self.samples, seed=self.seed)[0], seed=self.seed)
        perturbation.save(self.output)
        _console().print(f"{self.name} in {perturbation.details['seconds']} s: {self.output}")
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
        _console().print(f"{path}: {parity.text}")
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
        _console().print(url)
        return 0


@dataclass(frozen=True)
class Verify:
    """Replay a bundle's saved perturbations on its ONNX file; exit with 1 where figures differ from the report's."""

    bundle: Annotated[str, tyro.conf.Positional]
    """Folder that `genaf harden` left, or hf-hub:ORG/NAME."""
    data: str | None = None
    """Data id or image folder; by default the name in the report."""

    def __call__(self) -> int:
        """Run."""
        from rich.table import Table

        from genaf_sdk.data import load_data
        from genaf_sdk.export.hub import PREFIX, fetch_bundle
        from genaf_sdk.export.verify import verify_bundle

        folder = fetch_bundle(self.bundle) if self.bundle.startswith(PREFIX) else Path(self.bundle)
        content = read_json(folder / "report.json")
        try:
            shape, config = content["data"]["image_shape"], content["config"]
            name, seed, fraction = content["data"]["name"], config["seed"], config["validation_fraction"]
        except (KeyError, TypeError) as error:
            raise GenafError(f"{self.bundle}/report.json is no report of `genaf harden`: {error!r}.") from error
        data = load_data(
            self.data or name,
            image_size=(shape[1], shape[2]),
            channels=shape[0],
            validation_fraction=fraction,
            seed=seed,
        )
        rows = verify_bundle(folder, data)
        table = Table("column", "attack", "report", "replayed", "agrees")
        for row in rows:
            reported = f"{row.reported.accuracy:.1%}"
            table.add_row(
                row.reported.column, row.reported.attack, reported, f"{row.accuracy:.1%}", "yes" if row.agrees else "NO"
            )
        _console().print(table)
        return 0 if all(row.agrees for row in rows) else FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``genaf`` and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(given) and given[0] == "--debug"
    given = given[1:] if debug else given
    try:
        command: Any = tyro.cli(
            _commands(_starting_settings(given)),
            prog="genaf",
            description=f"Image classifiers that withstand downstream-agnostic adversarial examples.\n\n{EPILOGUE}",
            args=given,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        return int(command())
    except GenafError as error:
        if debug:
            raise
        _console(stderr=True).print(f"genaf: {error}", style="red", markup=False, highlight=False)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def _commands(settings: HardenConfig) -> Any:
    """Return the union of all commands; ``genaf harden`` starts from ``settings``."""
    named = {
        "harden": Harden(settings=settings),
        "evaluate": Evaluate,
        "attack": Attack,
        "export": Export,
        "push": Push,
        "verify": Verify,
    }
    types = []
    for name, command in named.items():
        if isinstance(command, type):
            types.append(Annotated[command, tyro.conf.subcommand(name)])
        else:
            types.append(Annotated[type(command), tyro.conf.subcommand(name, default=command)])
    return Union[tuple(types)]  # noqa: UP007  # built at run time


def _starting_settings(arguments: Sequence[str]) -> HardenConfig:
    """Read --preset and --config ahead of the rest, as they decide the defaults that the rest overrides."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--preset", default="default")
    early.add_argument("--config", type=Path)
    try:
        known, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(f"The arguments cannot be read: {error}.") from error
    if known.config is not None:
        content = read_json(known.config)
        return HardenConfig.from_dict(content)
    return HardenConfig.preset(known.preset)


def _show(console: Console, report: Any) -> None:
    console.print(report.table())
    for check in report.checks:
        mark = "[green]passed[/]" if check.passed else "[bold red]WARNING[/]"
        console.print(f"{mark} {check.name} ({check.figures})")
    console.print(report.verdict)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=120)


if __name__ == "__main__":
    sys.exit(main())
