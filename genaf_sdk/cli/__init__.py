"""``genaf``: the command line, generated from the settings' dataclasses."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import sys
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from genaf_sdk.cli.output import (
    CHECK_FAILED,
    DONE,
    INTERRUPTED,
    STOPPED,
    UNEXPECTED,
    USAGE_ERROR,
    console,
    show_error,
)
from genaf_sdk.cli.plain_help import describe
from genaf_sdk.cli.settings import starting_evaluation, starting_settings, with_fractions
from genaf_sdk.cli.streams import prepare_streams
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.settings import COMPARED, EvaluationConfig
from genaf_sdk.files import user_path
from genaf_sdk.registry import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CHECK_FAILED", "DONE", "INTERRUPTED", "STOPPED", "UNEXPECTED", "USAGE_ERROR", "main"]

DESCRIPTION = """Image classifiers that withstand downstream-agnostic adversarial examples.

`genaf COMMAND --help` lists a command's options.

Exit codes: 0 done; 1 a check or a part of a run failed, which is named; 2 something given cannot be used;
3 an unexpected error; 130 interrupted; 143 stopped by SIGTERM. --debug shows the traceback, --version
what is installed.

Completion for your shell: `genaf --tyro-print-completion bash` (or zsh)."""

COMMANDS = {
    "demo": ("arguments", "DemoArguments"),
    "harden": ("arguments", "HardenArguments"),
    "check": ("arguments", "CheckArguments"),
    "compare": ("arguments", "CompareArguments"),
    "evaluate": ("measuring", "Evaluate"),
    "certify": ("certifying", "Certify"),
    "attack": ("measuring", "Attack"),
    "verify": ("measuring", "Verify"),
    "report": ("measuring", "Report"),
    "export": ("exporting", "Export"),
    "sign": ("publishing", "Sign"),
    "push": ("publishing", "Push"),
    "serve": ("serving", "Serve"),
    "bench-serve": ("serving", "BenchServe"),
    "encoders": ("listing", "Encoders"),
    "data": ("listing", "Data"),
    "attacks": ("listing", "Attacks"),
    "doctor": ("listing", "Doctor"),
}
"""Command -> module of this package, class that lists its options; those of serving have a parser of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``genaf`` and return its exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is loaded, which no command has done yet
    prepare_streams()
    _tame_warnings()
    given = [_expanded(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        if given and given[0] in ("serve", "bench-serve"):
            return _serve(*given)
        if given == ["--version"]:
            console().print(_versions(), highlight=False)
            return DONE
        command = _parsed(given)
        code = int(command())
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        console(stderr=True).print("genaf: interrupted", style="red")
        return INTERRUPTED
    except Exception as error:  # the last line of defense: no user is shown a traceback unasked
        return show_error(error, as_json="--json" in given, debug=debug)


def _command(name: str, given: Sequence[str]) -> tuple[type[Any], dict[str, Any]]:
    """Return the class of a command, whose fields are its options, and where they start if not at its defaults.

    The settings of ``harden`` are those of the methods, which bring torch with them; only who trains waits for that.
    """
    if name in ("harden", "demo", "check"):
        from genaf_sdk.cli.making import Check, Demo, Harden

        kind = {"harden": Harden, "demo": Demo, "check": Check}[name]
        settings, run = starting_settings(given)
        return kind, {"default": kind(settings=settings, **run)}
    if name == "evaluate":
        from genaf_sdk.cli.measuring import Evaluate

        evaluation = starting_evaluation(given, EvaluationConfig())
        return Evaluate, {"default": Evaluate(model=tyro.MISSING, settings=evaluation)}
    if name == "compare":
        from genaf_sdk.cli.comparing import SHARED, Compare

        stated, run = starting_settings(given)
        shared = {name: getattr(stated, name) for name in SHARED}
        shared |= {name: run[name] for name in ("encoder", "data") if name in run}
        return Compare, {"default": Compare(settings=starting_evaluation(given, COMPARED), **shared)}
    return _listed(name), {}


def _listed(name: str) -> type[Any]:
    module, kind = COMMANDS[name]
    found: type[Any] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    return found


def _parsed(given: list[str]) -> Any:
    """Return the command that ``given`` asks for, ready to be called; ends the program where that is its help."""
    name = given[0] if given else ""
    if name and name not in COMMANDS and not name.startswith("-"):
        raise unknown(f"There is no command {name!r}.", name, COMMANDS, ConfigError)
    options: dict[str, Any] = {"config": (tyro.conf.OmitSubcommandPrefixes,), "registry": with_fractions()}
    if name in COMMANDS:
        kind, start = _command(name, given)
        describe(kind, start.get("default"))
        return tyro.cli(kind, prog=f"genaf {name}", args=given[1:], **start, **options)
    whole = any(argument.startswith("--tyro-") for argument in given)  # a shell completes settings, too
    every = [
        Annotated[_command(name, [])[0] if whole else _listed(name), tyro.conf.subcommand(name)] for name in COMMANDS
    ]
    commands: Any = Union[tuple(every)]  # noqa: UP007  # built at run time
    return tyro.cli(commands, prog="genaf", description=DESCRIPTION, args=given, **options)


def _serve(command: str, *arguments: str) -> int:
    """Hand over to the server, which has a command line of its own, as it also runs without this package."""
    if command == "serve":
        from genaf_sdk.export.serve.__main__ import main as run
    else:
        from genaf_sdk.export.serve.bench import main as run
    return run(list(arguments), program=f"genaf {command}", bundle=None)


def _expanded(argument: str) -> str:
    """Return an argument with ``~`` replaced: in ``~/x`` as shells do, and in ``--output-dir=~/x``, too."""
    name, equals, value = argument.partition("=")
    if argument.startswith("~"):
        return str(user_path(argument))
    return f"{name}={user_path(value)}" if equals and value.startswith("~") else argument


def _versions() -> str:
    """Return what a report of a fault should state, without importing torch."""
    from importlib.metadata import PackageNotFoundError, version

    from genaf_sdk import __version__

    found = [f"Python {platform.python_version()}", f"{platform.system()} {platform.machine()}"]
    for package in ("torch", "onnxruntime-gpu", "onnxruntime"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return f"genaf-sdk {__version__} ({', '.join(found)})"


class _PlainFormatter(logging.Formatter):
    """Warnings name files and classes of others."""

    def format(self, record: logging.LogRecord) -> str:
        from genaf_sdk.terminal import printable

        return printable(super().format(record))


def _tame_warnings() -> None:
    """Have warnings of the package's loggers shown as text where nobody has set logging up."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PlainFormatter())
