"""``genaf``: the command line, generated from the settings' dataclasses."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from genaf_sdk.cli.comparing import Compare
from genaf_sdk.cli.listing import Attacks, Data, Doctor, Encoders
from genaf_sdk.cli.making import Export, Harden, Push
from genaf_sdk.cli.measuring import Attack, Evaluate, Report, Verify
from genaf_sdk.cli.output import FAILED, INTERRUPTED, UNUSABLE, console
from genaf_sdk.config import HardenConfig
from genaf_sdk.errors import ConfigError, GenafError
from genaf_sdk.files import read_json

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FAILED", "INTERRUPTED", "UNUSABLE", "main"]

DESCRIPTION = """Image classifiers that withstand downstream-agnostic adversarial examples.

`genaf serve` and `genaf bench-serve` run a bundle without torch; they have a --help of their own.

Exit codes: 0 done; 1 a check failed (verify, doctor); 2 something given cannot be used, said in one or two lines;
130 interrupted. --debug before the command shows the traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``genaf`` and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = bool(given) and given[0] == "--debug"
    given = given[1:] if debug else given
    if given and given[0] in ("serve", "bench-serve"):
        return _serve(*given)
    try:
        command: Any = tyro.cli(
            _commands(_starting_settings(given)),
            prog="genaf",
            description=DESCRIPTION,
            args=given,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
        return int(command())
    except GenafError as error:
        if debug:
            raise
        console(stderr=True).print(f"genaf: {error}", style="red", markup=False, highlight=False)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def _commands(settings: HardenConfig) -> Any:
    """Return the union of all commands; ``genaf harden`` starts from ``settings``."""
    named = {
        "harden": Harden(settings=settings),
        "compare": Compare,
        "evaluate": Evaluate,
        "attack": Attack,
        "verify": Verify,
        "report": Report,
        "export": Export,
        "push": Push,
        "encoders": Encoders,
        "data": Data,
        "attacks": Attacks,
        "doctor": Doctor,
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


def _serve(command: str, *arguments: str) -> int:
    """Hand over to the server, which has a command line of its own, as it also runs without this package."""
    try:
        if command == "serve":
            from genaf_sdk.export.serve.__main__ import main as run
        else:
            from genaf_sdk.export.serve.bench import main as run
    except ModuleNotFoundError as error:
        console(stderr=True).print(
            f"genaf: {error.name} is not installed. To do: pip install 'genaf-sdk[serve]'.", style="red", markup=False
        )
        return UNUSABLE
    return run(list(arguments))
