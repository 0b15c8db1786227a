"""Where a command's settings start: a preset, then a file; what the command line says overrides both."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

from genaf_sdk.cli import plain_yaml
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.files import user_path
from genaf_sdk.settings import overlaid, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tyro.constructors import PrimitiveTypeInfo

    from genaf_sdk.config import HardenConfig


FRACTION = re.compile(r"\s*([-+.\de]+)\s*/\s*([-+.\de]+)\s*", re.IGNORECASE)
RUN = ("encoder", "data", "output_dir")
"""What a file may state beside the settings: the arguments of ``genaf harden``."""


def starting_settings(arguments: Sequence[str]) -> tuple[HardenConfig, dict[str, Any]]:
    """Read --preset and --config ahead of the rest, as they decide the defaults that the rest overrides.

    Returns:
        Settings, and arguments of ``genaf harden`` that the file states.

    Raises:
        ConfigError: The preset or the file does not exist, or a setting in the file is unknown or out of range.
    """
    from genaf_sdk.config import HardenConfig
    from genaf_sdk.earlier import settings_of_today

    preset_name, content = _stated(arguments)
    run: dict[str, Any] = {name: _text(name, content.pop(name)) for name in RUN if name in content}
    run |= {"output_dir": user_path(run["output_dir"])} if "output_dir" in run else {}
    preset = HardenConfig.preset(preset_name or _text("preset", content.pop("preset", "default")))
    content.pop("preset", None)
    base = preset.to_dict()
    return HardenConfig.from_dict(overlaid(base, settings_of_today(content, base))), run


def starting_evaluation(arguments: Sequence[str]) -> EvaluationConfig:
    """Read the part ``evaluation`` of --config ahead of the rest.

    Raises:
        ConfigError: The file does not exist, or a setting in it is unknown or out of range.
    """
    _, content = _stated(arguments)
    return EvaluationConfig.from_dict(content.get("evaluation", {}), "evaluation.")


def _stated(arguments: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """Return what --preset says, and what is in the file of --config."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    early.add_argument("--preset")
    early.add_argument("--config", type=Path)
    try:
        known, _ = early.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(f"The arguments cannot be read: {error}.") from error
    return known.preset, {} if known.config is None else read_settings(known.config)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file of settings, or the settings of the run that a ``report.json`` belongs to.

    Numbers may be written as in the code: ``8/255``, ``1e-3``.

    Raises:
        ConfigError: The file is missing, or holds something else.
    """
    try:
        content = _numbers(plain_yaml.load(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ConfigError(
            f"The settings in {path} cannot be read: {reason}.", expected="a YAML or JSON file"
        ) from error
    if isinstance(content, dict) and {"schema", "config"} <= set(content):
        content = content["config"]
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}.", expected="settings by name, such as `seed: 1`")
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
