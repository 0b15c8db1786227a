"""``genaf``: the command line, generated from the settings' dataclasses."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from genaf_sdk.cli.comparing import Compare
from genaf_sdk.cli.exporting import Export
from genaf_sdk.cli.listing import Attacks, Data, Doctor, Encoders
from genaf_sdk.cli.making import Demo, Harden, Push
from genaf_sdk.cli.measuring import Attack, Evaluate, Report, Verify
from genaf_sdk.cli.output import DONE, FAILED, INTERRUPTED, UNEXPECTED, UNUSABLE, console, show_error
from genaf_sdk.cli.settings import Start, starting_settings, with_fractions

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DONE", "FAILED", "INTERRUPTED", "UNEXPECTED", "UNUSABLE", "main"]

DESCRIPTION = """Image classifiers that withstand downstream-agnostic adversarial examples.

`genaf serve` and `genaf bench-serve` run a bundle without torch; they have a --help of their own.

Exit codes: 0 done; 1 a check failed (verify, doctor); 2 something given cannot be used, said in one or two lines;
3 an unexpected error; 130 interrupted. --debug shows the traceback. Completion for your shell:
`genaf --tyro-print-completion bash` (or zsh)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``genaf`` and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    if given and given[0] in ("serve", "bench-serve"):
        return _serve(*given)
    try:
        command: Any = tyro.cli(
            _commands(starting_settings(given)),
            prog="genaf",
            description=DESCRIPTION,
            args=given,
            config=(tyro.conf.OmitSubcommandPrefixes,),
            registry=with_fractions(),
        )
        code = int(command())
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `genaf encoders | head`: the reader has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        console(stderr=True).print("genaf: interrupted", style="red")
        return INTERRUPTED
    except Exception as error:  # the last line of defence: no user is shown a traceback unasked
        return show_error(error, as_json="--json" in given, debug=debug)


def _commands(start: Start) -> Any:
    """Return the union of all commands; their settings begin at ``start``."""
    named = {
        "demo": Demo(settings=start.settings, **start.run),
        "harden": Harden(settings=start.settings, **start.run),
        "compare": Compare,
        "evaluate": Evaluate(model=tyro.MISSING, settings=start.settings.evaluation),
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
    return run(list(arguments), program=f"genaf {command}", bundle=None)
