"""Names of what other packages can add to."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from genaf_sdk import registry as registry_module
from genaf_sdk.errors import AttackError
from genaf_sdk.registry import Registry


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
