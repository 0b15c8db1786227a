"""From harden() to the equation, and to the attack's loop, in at most six frames of the package."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from torch import nn

import genaf_sdk
from genaf_sdk import HardenConfig, harden
from genaf_sdk.data import DataSplits
from genaf_sdk.methods import gen_af, mixture

PACKAGE = Path(genaf_sdk.__file__).parent


def path_to(frame: FrameType | None) -> list[str]:
    """Return the names of the package's functions from ``harden`` down to ``frame``."""
    names: list[str] = []
    while frame is not None:
        if PACKAGE in Path(frame.f_code.co_filename).resolve().parents:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[::-1]


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        (gen_af, "genetic_regularization", ["harden", "train", "training_step", "backward", "losses"]),
        (mixture, "ascend", ["harden", "train", "training_step", "views", "perturb"]),
    ],
)
def test_the_way_is_short(
    module: Any, name: str, expected: list[str], tiny_encoder: nn.Module, striped: DataSplits,
    quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    original, found = getattr(module, name), []

    def noted(*arguments: Any, **named: Any) -> Any:
        found.append(path_to(sys._getframe(1)))
        return original(*arguments, **named)

    monkeypatch.setattr(module, name, noted)
    config = quick_config.with_(method={"schedule": {"epochs": 1}, "adaptability": {"epochs": 0}})
    harden(tiny_encoder, striped, config, evaluate=False, progress=False, preflight=False)
    trained = [path for path in found if "settled_machine" not in path]  # which tries what memory a step takes
    assert trained[0] == expected
    assert len(expected) + 1 <= 6
