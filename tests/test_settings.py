"""Settings are checked by their type hints, in Python as from JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from genaf_sdk.errors import ConfigError
from genaf_sdk.settings import Count, Epsilon, Seed, Settings, overlaid


@dataclass(frozen=True)
class Inner(Settings):
    epochs: Count = 3
    rate: float = 0.5


@dataclass(frozen=True)
class Kind(Settings):
    name: ClassVar[str] = "kind"
    size: Count = 1


@dataclass(frozen=True)
class Outer(Settings):
    seed: Seed = 0
    epsilon: Epsilon = 8 / 255
    word: Literal["one", "two"] = "one"
    names: tuple[str, ...] = ("a",)
    flag: bool = False
    rate: float | None = None
    anything: dict[str, Any] = field(default_factory=dict)
    inner: Inner = Inner()
    kind: Kind = Kind()

    def check(self) -> None:
        if self.flag and self.rate is None:
            raise ConfigError("flag needs a rate.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("seed", value) for value in (1.5, True, "x", None, -1, 2**31, [1])],
        *[("epsilon", value) for value in ("8/255", 0.0, 1.1, True, float("nan"), float("inf"), None)],
        *[("word", value) for value in ("three", 1, None, ["one"])],
        *[("names", value) for value in ("pgd", 7, [1], None, {"a": 1})],
        *[("flag", value) for value in (1, "no", None)],
        *[("rate", value) for value in ("x", False, [])],
        *[("inner", value) for value in (None, 3, "x", Kind())],
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_python_and_from_json_alike(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"Outer.{name}") as in_python:
        Outer(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=name):
        Outer.from_dict({name: value})
    assert in_python.value.expected


def test_an_error_names_a_value_that_works() -> None:
    with pytest.raises(ConfigError, match=r"use for example 8/255, the default"):
        Outer(epsilon=3.0)
    with pytest.raises(ConfigError, match=r"kind\.'sizes'.*size"):
        Outer.from_dict({"kind": {"sizes": 3}})


def test_a_bound_is_named_with_all_its_digits() -> None:
    with pytest.raises(ConfigError, match=r"a whole number from 0 to 2147483647\b"):
        Outer(seed=2**31)


def test_values_become_what_their_hint_says() -> None:
    made = Outer(seed=np.int64(3), rate=1, names=["x", "y"])  # type: ignore[arg-type]
    assert (made.seed, type(made.seed), made.rate, type(made.rate)) == (3, int, 1.0, float)
    assert made.names == ("x", "y")
    assert hash(made.inner) == hash(Inner())


def test_what_concerns_several_fields_is_checked_last() -> None:
    with pytest.raises(ConfigError, match="needs a rate"):
        Outer(flag=True)
    assert Outer(flag=True, rate=1.0).flag


def test_json_comes_back_and_states_the_kind() -> None:
    made = Outer(inner=Inner(epochs=7), rate=0.25, anything={"a": [1]})
    content = made.to_dict()
    assert content["kind"] == {"name": "kind", "size": 1}
    assert content["names"] == ["a"]
    assert Outer.from_dict(content) == made


def test_nested_changes_leave_the_rest() -> None:
    made = Outer(seed=4).with_(inner={"epochs": 9}, kind={"name": "kind", "size": 2}, word="two")
    assert (made.seed, made.word, made.inner, made.kind) == (4, "two", Inner(epochs=9), Kind(size=2))
    with pytest.raises(ConfigError, match="epoch"):
        made.with_(inner={"epoch": 9})
    with pytest.raises(ConfigError, match="'inne'"):
        made.with_(inne=3)


def test_settings_of_a_file_are_laid_over_those_of_a_preset_group_by_group() -> None:
    base = {"seed": 1, "inner": {"epochs": 80, "deep": {"a": 1, "b": 2}}, "kind": {"name": "kind", "size": 5}}
    over = {"inner": {"deep": {"b": 3}}, "kind": {"size": 6}}
    assert overlaid(base, over) == {
        "seed": 1,
        "inner": {"epochs": 80, "deep": {"a": 1, "b": 3}},
        "kind": {"name": "kind", "size": 6},
    }
    assert overlaid(base, {"kind": {"name": "other"}})["kind"] == {"name": "other"}, "of which nothing is known"
    assert base["inner"] == {"epochs": 80, "deep": {"a": 1, "b": 2}}
