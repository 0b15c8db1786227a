"""A few hostile bundles at every door; ``benchmarks/doors_fuzz.py`` tries thousands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hostile import DOORS, attempt, small_bundle, watched

from genaf_sdk.data import DataSplits

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="makes pipes and links")
CASES = 10
SERVED = 60
"""The server reads few of the files, so that most changes do not matter to it."""
Sound = tuple[Path, DataSplits]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    return small_bundle(tmp_path_factory.mktemp("sound") / "bundle")


@pytest.mark.parametrize("door", DOORS)
def test_a_sound_bundle_comes_in_and_nothing_else_happens(door: str, sound: Sound) -> None:
    folder, data = sound
    with watched(folder.parent):
        DOORS[door](folder, data)


@pytest.mark.parametrize("door", DOORS)
def test_hostile_bundles_are_refused_or_harmless(door: str, sound: Sound, tmp_path: Path) -> None:
    outcomes = [attempt(door, *sound, tmp_path, seed) for seed in range(SERVED if door == "serve" else CASES)]
    assert len(set(outcomes)) > 1, "some changes are harmless, most are not"
