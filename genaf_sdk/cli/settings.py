"""Where a command's settings start: a preset, then a file; what the command line says overrides both."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from genaf_sdk.cli import plain_yaml
from genaf_sdk.cli.arguments import HardenArguments
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.settings import AttackConfig, EvaluationConfig
from genaf_sdk.files import user_path
from genaf_sdk.registry import unknown
from genaf_sdk.settings import overlaid, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tyro.constructors import PrimitiveTypeInfo

    from genaf_sdk.config import HardenConfig

Evaluation = TypeVar("Evaluation", bound=AttackConfig)
FRACTION = re.compile(r"\s*([-+.\de]+)\s*/\s*([-+.\de]+)\s*", re.IGNORECASE)
RUN = ("encoder", "data", "output_dir")
"""What a file may state beside the settings: the arguments of ``genaf harden``."""


def starting_settings(arguments: Sequence[str]) -> tuple[HardenConfig, dict[str, Any]]:
    """Read --preset and --config ahead of the rest, as they decide the defaults that the rest overrides.

    Returns:
        Settings, and arguments of ``genaf harden`` that the file states.

    Raises:
        ConfigError: The preset or the file does not exist, a setting in the file is unknown or out of range, or it is
            the report of a run whose encoder or data are not named.
    """
    from genaf_sdk.config import HardenConfig
    from genaf_sdk.earlier import settings_of_today

    given = _given(arguments)
    content = {} if given.config is None else _read(given.config)
    if _is_report(content):
        _require_named(given, content)
        content = content["config"]
    run: dict[str, Any] = {name: _text(name, content.pop(name)) for name in RUN if name in content}
    run |= {"output_dir": user_path(run["output_dir"])} if "output_dir" in run else {}
    preset = HardenConfig.preset(given.preset or _text("preset", content.pop("preset", "default")))
    content.pop("preset", None)
    base = preset.to_dict()
    return HardenConfig.from_dict(overlaid(base, settings_of_today(content, base))), run


def starting_evaluation(arguments: Sequence[str], base: Evaluation) -> Evaluation:
    """Read the part ``evaluation`` of --config ahead of the rest; what it does not state is as in ``base``.

    Where ``base`` is attacks alone, the file may still state more of an evaluation, for other commands.

    Raises:
        ConfigError: The file does not exist, or a setting in it is unknown or out of range.
    """
    given = _given(arguments)
    if given.config is None:
        return base
    from genaf_sdk.config import HardenConfig
    from genaf_sdk.earlier import MOVED

    content = read_settings(given.config)
    known = (*RUN, "preset", *(field.name for field in fields(HardenConfig)), *(name.split(".")[0] for name in MOVED))
    for name in content:
        if name not in known:
            raise unknown(f"There is no setting {name!r}.", name, known, ConfigError)
    part = content.get("evaluation", {})
    whole = EvaluationConfig.from_dict(
        overlaid(base.to_dict(), part) if isinstance(part, dict) else part, "evaluation."
    )
    return type(base)(**{field.name: getattr(whole, field.name) for field in fields(base)})


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Return what of the command line decides where its other options start; None is what it does not say."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--preset", "--encoder", "--data"):
        early.add_argument(name)
    early.add_argument("--config", type=Path)
    try:
        return early.parse_known_args(arguments)[0]
    except argparse.ArgumentError as error:
        raise ConfigError(f"The arguments cannot be read: {error}.") from error


def _is_report(content: dict[str, Any]) -> bool:
    return "schema" in content and ("config" in content or "scores" in content)


def _require_named(given: argparse.Namespace, report: dict[str, Any]) -> None:
    """Refuse to run the settings of a report on the default encoder or data where they were of others."""
    for name, section, key in (("encoder", "provenance", "encoder"), ("data", "data", "name")):
        found = report.get(section)
        stated = found.get(key) if isinstance(found, dict) else None
        if getattr(given, name) is None and stated not in (None, getattr(HardenArguments, name)):
            raise ConfigError(
                f"{given.config} is the report of a run with the {name} {str(stated)[:80]!r}, and a report is read for "
                "its settings alone.",
                expected=f"--{name} beside it",
                remedy=f"add --{name} and what it shall be",
            )


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file of settings, or the settings of the run that a ``report.json`` belongs to.

    Numbers may be written as in the code: ``8/255``, ``1e-3``.

    Raises:
        ConfigError: The file is missing, or holds something else.
    """
    content = _read(path)
    return content["config"] if _is_report(content) else content


def _read(path: Path) -> dict[str, Any]:
    try:
        content = _numbers(plain_yaml.load(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ConfigError(
            f"The settings in {path} cannot be read: {reason}.", expected="a YAML or JSON file"
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}.", expected="settings by name, such as `seed: 1`")
    if _is_report(content) and not isinstance(content.get("config"), dict):
        raise ConfigError(f"{path} is a report without settings.", expected="the report of a run of `genaf harden`")
    return content


def number(text: str) -> float:
    """Read a number, or a fraction such as ``8/255``.

    Raises:
        ValueError: It is neither.
    """
    fraction = FRACTION.fullmatch(text)
    if fraction is None:
        return float(text)
    if not float(fraction[2]):
        raise ValueError(f"{text!r} divides by zero")
    return float(fraction[1]) / float(fraction[2])


def with_fractions() -> ConstructorRegistry:
    """Return a registry of tyro in which every float may be written as a fraction."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _float(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[float] | None:
        if info.type is not float:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="NUMBER",
            instance_from_str=lambda texts: number(texts[0]),
            is_instance=lambda value: isinstance(value, float),
            str_from_instance=lambda value: [shown(value)],
        )

    return registry


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {value!r}.", expected="text", remedy=f'put it in quotes: {name}: "..."')
    return value


def _numbers(value: Any) -> Any:
    """Turn fractions into numbers."""
    if isinstance(value, dict):
        return {str(name): _numbers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if isinstance(value, str) and FRACTION.fullmatch(value):
        try:
            return number(value)
        except ValueError:
            return value
    return value
