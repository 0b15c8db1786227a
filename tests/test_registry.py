"""Names of what other packages can add to."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from torch import nn

from genaf_sdk import registry as registry_module
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.errors import AttackError
from genaf_sdk.registry import Registry, code_of_others


class Alpha:
    name = "alpha"


class Beta:
    name = "beta"


class Impostor:
    name = "alpha"


@pytest.fixture
def registry() -> Registry[type[Alpha]]:
    made: Registry[type[Alpha]] = Registry("thing", "no.such.group", AttackError)
    made.register(Alpha)
    return made


def test_code_of_others_is_that_of_their_files_and_of_a_script_that_of_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison would go on with figures of an attack as it was before its author mended it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def code(text: str, module: str = "someones_attack") -> str:
        (tmp_path / "someones_attack.py").write_text(f"import torch\n\n\nclass Theirs(torch.nn.Module):\n{text}\n")
        sys.modules.pop("someones_attack", None)
        importlib.invalidate_caches()
        kind = importlib.import_module("someones_attack").Theirs
        monkeypatch.setattr(kind, "__module__", module)
        monkeypatch.setitem(sys.modules, module, sys.modules["someones_attack"])
        return code_of_others([kind])

    helper = "    name = 1\n\n\ndef helper():\n    return {}"
    assert code(helper.format(1)) != code(helper.format(22))
    assert code(helper.format(1)) == code(helper.format(1))
    assert code(helper.format(1), "__mp_main__") == code(helper.format(22), "__mp_main__") != ""
    assert code("    name = 1", "__mp_main__") != code("    name = 22", "__mp_main__")
    assert code_of_others([type("Typed", (), {"__module__": "__mp_main__"})]) == ""
    assert code_of_others([UAPGD, nn.Linear, int]) == ""


def test_names_are_found_and_the_nearest_are_listed(registry: Registry[type[Alpha]]) -> None:
    assert registry["alpha"] is Alpha
    assert "alpha" in registry
    assert "beta" not in registry
    with pytest.raises(AttackError, match=r"no thing 'alfa'. Expected: one of alpha. To do: try alpha."):
        registry["alfa"]


def test_two_of_one_name_are_refused_and_the_same_twice_is_not(registry: Registry[type[Alpha]]) -> None:
    registry.register(Alpha)
    with pytest.raises(AttackError, match=r"Two things are named 'alpha'.*Impostor"):
        registry.register(Impostor)


def test_other_packages_add_theirs_and_a_broken_one_costs_only_itself(
    registry: Registry[type[Alpha]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [
        EntryPoint("beta", f"{__name__}:Beta", "group"),
        EntryPoint("gamma", "no_such_module:Gamma", "group"),
    ]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: entries)
    assert registry["beta"].__name__ == "Beta"
    assert list(registry.items()) == ["alpha", "beta"]
    assert "gamma" in caplog.text
    with pytest.raises(AttackError, match=r"'gamma' cannot be loaded: ModuleNotFoundError"):
        registry["gamma"]
