"""What attacks have made is taken over by an evaluation that goes on, and nothing else is."""

from __future__ import annotations

import copy
import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genaf_sdk import evaluate
from genaf_sdk.attacks.label_uap import LabelUAP
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.data import DataSplits
from genaf_sdk.errors import OutputError
from genaf_sdk.evaluation import kept as kept_module
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.preparation import new_classifier

ATTACKS = ("uapgd:steps=3", "cluster-uap:steps=3,goals=2", "plain-patch", "label-uap:steps=3")


class KilledError(BaseException):
    """Ends an evaluation as abruptly as an exception can."""


@dataclass(frozen=True)
class Counting(UAPGD):
    """Counts how often it crafts."""

    crafted = 0

    def tries(self, *arguments: Any, **options: Any) -> list[Perturbation]:
        type(self).crafted += 1
        return super().tries(*arguments, **options)


@pytest.fixture
def images(striped: DataSplits) -> Tensor:
    return striped.train.sample()[0][:12]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr(Counting, "crafted", 0)
    return Counting


def crafted(
    folder: Path, encoder: nn.Module, images: Tensor, attack: UAPGD, seed: int = 0, start: Perturbation | None = None
) -> Perturbation:
    def craft() -> list[Perturbation]:
        return attack.tries(encoder, images, seed=seed, start=start)

    (found,) = Kept(folder).made(attack, encoder, (images,), seed, start, craft)
    return found


def test_what_was_crafted_is_the_same_bit_for_bit(
    tiny_encoder: nn.Module, images: Tensor, tmp_path: Path, counted: type[Counting]
) -> None:
    attack = counted(steps=2)
    first, second = (crafted(tmp_path, PixelEncoder(tiny_encoder), images, attack) for _ in range(2))
    assert counted.crafted == 1
    assert torch.equal(first.values, second.values)
    assert (first.threat, first.key, first.details) == (second.threat, second.key, second.details)


def other_weights(encoder: PixelEncoder) -> PixelEncoder:
    other = copy.deepcopy(encoder)
    next(other.parameters()).data[0] += 1e-6
    return other


@pytest.mark.parametrize(
    "change",
    [
        {"attack": Counting(steps=3)},
        {"attack": Counting(steps=2, budget=8 / 255)},
        {"seed": 1},
        {"encoder": other_weights},
        {"encoder": lambda encoder: PixelEncoder(encoder.backbone, mean=(0.1,) * 3, std=(1.0,) * 3)},
        {"images": lambda images: images.flip(0)},
        {"start": Perturbation(torch.full((3, 16, 16), 1 / 255), Linf(10 / 255))},
    ],
    ids=["setting", "budget", "seed", "weights", "normalization", "images", "start"],
)
def test_whatever_decides_is_crafted_anew(
    change: dict[str, Any], tiny_encoder: nn.Module, images: Tensor, tmp_path: Path, counted: type[Counting]
) -> None:
    given: dict[str, Any] = {"encoder": PixelEncoder(tiny_encoder), "images": images, "attack": counted(steps=2)}
    crafted(tmp_path, **given)
    for name, value in change.items():
        if name == "start":
            value = replace(value, values=torch.full_like(images[0], 1 / 255))
        given[name] = value(given[name]) if callable(value) and name != "attack" else value
    before = counted.crafted
    crafted(tmp_path, **given)
    assert counted.crafted == before + 1


def test_another_version_of_the_code_crafts_anew(
    tiny_encoder: nn.Module, images: Tensor, tmp_path: Path, counted: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, attack = PixelEncoder(tiny_encoder), counted(steps=2)
    crafted(tmp_path, encoder, images, attack)
    monkeypatch.setattr(kept_module, "_code_of", lambda _: "other")
    crafted(tmp_path, encoder, images, attack)
    assert counted.crafted == 2


def test_an_attack_of_a_notebook_is_not_kept(
    tiny_encoder: nn.Module, images: Tensor, tmp_path: Path, counted: type[Counting], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could tell whether its cell has been changed since."""
    monkeypatch.setattr(counted, "__module__", "__main__")
    for _ in range(2):
        crafted(tmp_path, PixelEncoder(tiny_encoder), images, counted(steps=2))
    assert counted.crafted == 2
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_hashed_costs_no_row(
    tiny_encoder: nn.Module,
    images: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(_: object) -> str:
        raise NotImplementedError("no bytes")

    monkeypatch.setattr(kept_module, "fingerprint", refuse)
    assert crafted(tmp_path, PixelEncoder(tiny_encoder), images, UAPGD(steps=2)).attack == "uapgd"
    assert "is not kept for a run that goes on: NotImplementedError('no bytes')" in caplog.text


def test_modules_of_the_same_weights_are_told_apart_by_what_they_do(
    images: Tensor, tmp_path: Path, counted: type[Counting]
) -> None:
    """A user's encoder may be normalized in its own code."""

    class Scaled(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.factor, self.layer = factor, nn.Linear(3 * 16 * 16, 4)

        def forward(self, pixels: Tensor) -> Tensor:
            features: Tensor = self.layer(self.factor * pixels.flatten(1))
            return features

    small = nn.functional.interpolate(images, (16, 16))
    for factor in (1.0, 1.0, 2.0):
        crafted(tmp_path, Scaled(factor), small, counted(steps=2))
    assert counted.crafted == 2


def test_labels_count(tiny_encoder: nn.Module, striped: DataSplits, tmp_path: Path) -> None:
    pixels, labels = (part[:12] for part in striped.train.sample())
    model = new_classifier(PixelEncoder(tiny_encoder), striped, 0).eval()
    calls = []

    def made(classes: Tensor) -> None:
        attack = LabelUAP(steps=2)
        Kept(tmp_path).made(
            attack, model, (pixels, classes), 0, None, lambda: [calls.append(1) or attack(model, pixels, classes)]
        )

    for classes in (labels, labels, (labels + 1) % 3):
        made(classes)
    assert len(calls) == 2


@pytest.mark.parametrize("spoil", ["values", "list", "names"])
def test_what_is_damaged_is_crafted_anew(
    spoil: str,
    tiny_encoder: nn.Module,
    images: Tensor,
    tmp_path: Path,
    counted: type[Counting],
    caplog: pytest.LogCaptureFixture,
) -> None:
    encoder, attack = PixelEncoder(tiny_encoder), counted(steps=2)
    crafted(tmp_path, encoder, images, attack)
    pattern = "*/*.safetensors" if spoil == "values" else "*/complete.json"
    for path in tmp_path.glob(pattern):
        path.write_bytes(path.read_bytes()[:5] if spoil != "names" else b"{}")
    crafted(tmp_path, encoder, images, attack)
    assert counted.crafted == 2
    assert "crafted anew" in caplog.text
    crafted(tmp_path, encoder, images, attack)  # and what was crafted anew has taken its place
    assert counted.crafted == 2


def test_a_full_disk_costs_no_row(
    tiny_encoder: nn.Module,
    images: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OutputError("No space left on device.")

    monkeypatch.setattr(Perturbation, "save", full)
    assert crafted(tmp_path, PixelEncoder(tiny_encoder), images, UAPGD(steps=2)).attack == "uapgd"
    assert "is not kept for a run that goes on: No space left" in caplog.text


def test_details_that_are_no_json_cost_no_row(
    tiny_encoder: nn.Module, images: Tensor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = Perturbation(torch.zeros(3, 16, 16), Linf(10 / 255), details={"path": [tmp_path]})  # type: ignore[dict-item]
    attack, encoder = UAPGD(steps=2), PixelEncoder(tiny_encoder)
    for _ in range(2):
        assert Kept(tmp_path).made(attack, encoder, (images,), 0, None, lambda: [made]) == [made]
    assert caplog.text.count("What uapgd made is not kept for a run that goes on: ") == 2


def test_of_several_processes_the_first_keeps_and_clears(
    tiny_encoder: nn.Module, images: Tensor, tmp_path: Path, counted: type[Counting]
) -> None:
    encoder, attack = PixelEncoder(tiny_encoder), counted(steps=2)

    def made(kept: Kept) -> None:
        kept.made(attack, encoder, (images,), 0, None, lambda: attack.tries(encoder, images, seed=0))

    other, first = Kept(tmp_path / "kept", writes=False), Kept(tmp_path / "kept")
    made(other)
    assert list(tmp_path.iterdir()) == []
    made(first)
    made(other)
    assert counted.crafted == 2
    other.clear()
    assert len(list(tmp_path.glob("kept/*/complete.json"))) == 1
    first.clear()
    assert list(tmp_path.iterdir()) == []


def test_time_of_attacks_side_by_side_counts_once(tiny_encoder: nn.Module, images: Tensor, tmp_path: Path) -> None:
    encoder, attack = PixelEncoder(tiny_encoder), UAPGD(steps=2)
    for seed in range(4):
        crafted(tmp_path, encoder, images, attack, seed)
    times = (10.0, 20.0), (12.0, 18.0), (15.0, 30.0), (50.0, 51.0)
    for path, (began, ended) in zip(tmp_path.glob("*/complete.json"), times, strict=True):
        path.write_text(json.dumps({"tries": 1, "began": began, "ended": ended}))
    kept = Kept(tmp_path)
    for seed in range(4):
        kept.made(attack, encoder, (images,), seed, None, list)
    assert kept.seconds == 21.0


def test_code_that_changed_since_it_was_loaded_is_not_hashed(
    tiny_encoder: nn.Module,
    images: Tensor,
    tmp_path: Path,
    counted: type[Counting],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What runs is the old one, and what it makes would be taken for the new one's."""
    kept_module._hash_of.cache_clear()
    monkeypatch.setattr(kept_module, "IMPORTED", 0.0)
    crafted(tmp_path, PixelEncoder(tiny_encoder), images, counted(steps=2))
    assert list(tmp_path.iterdir()) == []
    assert "has changed since this process began" in caplog.text


def test_all_of_the_package_that_an_attack_is_from_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what it is a subclass of, and what its module imports."""
    for name in ("base_of_attacks.py", "own_attacks/__init__.py", "own_attacks/helpers.py", "own_attacks/attack.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "base_of_attacks.py").write_text("from genaf_sdk.attacks.uapgd import UAPGD\nclass Base(UAPGD): pass\n")
    (tmp_path / "own_attacks/attack.py").write_text("from base_of_attacks import Base\nclass Own(Base): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(kept_module, "IMPORTED", float("inf"))
    own = importlib.import_module("own_attacks.attack").Own
    found = []
    for name in ("none", "own_attacks/helpers.py", "base_of_attacks.py"):
        (tmp_path / name).write_text("# changed")
        kept_module._hash_of.cache_clear()
        found.append(str(kept_module._code_of(own)))
    kept_module._hash_of.cache_clear()
    assert len(set(found)) == 3


@pytest.mark.parametrize("killed_at", range(1, 8, 2))
def test_an_evaluation_that_was_killed_ends_in_the_same_report(
    killed_at: int, tiny_encoder: nn.Module, striped: DataSplits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    public = PixelEncoder(tiny_encoder)
    model = new_classifier(public, striped, 0).eval()
    config = EvaluationConfig(attacks=ATTACKS, surrogate_samples=24, curve=(), checks=False)
    announced: list[str] = []

    def run(on_attack: Callable[[str], object], kept: Kept | None) -> Any:
        return evaluate(model, striped, encoder=public, config=config, on_attack=on_attack, kept=kept)

    def kill(text: str) -> None:
        announced.append(text)
        if len(announced) == killed_at:
            raise KilledError

    undisturbed = run(str, None)
    with pytest.raises(KilledError):
        run(kill, Kept(tmp_path))
    assert len(list(tmp_path.glob("*/complete.json"))) == killed_at - 1
    kept = Kept(tmp_path)
    resumed = run(str, kept)
    assert (kept.seconds > 0) == (killed_at > 1)
    for row, other in zip(undisturbed.scores, resumed.scores, strict=True):
        assert replace(row, seconds=0) == replace(other, seconds=0)
    for name, perturbation in undisturbed.perturbations.items():
        assert torch.equal(perturbation.values, resumed.perturbations[name].values)
    kept.clear()
    assert not tmp_path.exists()
