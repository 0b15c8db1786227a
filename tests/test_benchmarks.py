"""The benchmarks: their documented commands can be read, and no row is taken for that of another measurement."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import pytest
import torch
from accelerate.utils import parse_flag_from_env
from torch import nn
from training import tiny_model

from genaf_sdk.attacks import EncoderAttack, FeatureAttack, load_attack
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.data.sampling import Sample
from genaf_sdk.evaluation.settings import CertificateConfig
from genaf_sdk.rows import Comparison

ROOT = Path(__file__).parents[1]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()}
PAGES = [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if "results" not in page.parts)]
Load = Callable[[str], ModuleType]


class Parsed(Exception):  # noqa: N818  # no error
    """The options were read."""


def commands() -> list[str]:
    """What documentation and docstrings say to run, from the name of the script on."""
    found = []
    for page in PAGES:
        text = re.sub(r"^```.*?$", "`", page.read_text("utf-8"), flags=re.M)
        found += re.findall(r"`[^`]*?python benchmarks/([^`]+)`", text)
    for path in SCRIPTS.values():
        docstring = path.read_text("utf-8").split('"""')[1].replace("\\\n", " ")
        found += re.findall(r"^ {4}.*?python benchmarks/([^#\n]+)", docstring, re.M)
    texts = {" ".join(text.split()) for text in found}
    return sorted(text.partition(" --variants ...")[0] for text in texts if "[" not in text)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """What loads a benchmark as a module, with what it finds beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def loaded(name: str) -> ModuleType:
        specification = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        specification.loader.exec_module(module)
        return module

    return loaded


@pytest.mark.skipif(sys.platform == "win32", reason="some read what POSIX tells")
def test_every_documented_command_has_options_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    read = argparse.ArgumentParser.parse_args

    def parse(*arguments: Any, **options: Any) -> NoReturn:
        read(*arguments, **options)
        raise Parsed

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    found = commands()
    assert {text.partition(".py")[0] for text in found} == set(SCRIPTS), "each says how it is run"
    for text in found:
        name, _, options = text.partition(".py")
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *shlex.split(options)])
        try:
            runpy.run_path(str(SCRIPTS[name]), run_name="__main__")
        except Parsed:
            continue
        except SystemExit:
            pytest.fail(f"python benchmarks/{text}")
        pytest.fail(f"python benchmarks/{text}: no option was read")


def test_processor_seconds_are_taken_on_no_gpu(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = load("timing")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    options = timing.parser_of("", repeats=1, processor=True, records=False).parse_args([])
    assert (options.device, options.clock, options.threads) == ("cpu", "cpu", 1)
    assert timing.parser_of("", repeats=1).parse_args([]).device == "cuda"
    with timing.processor_alone():
        assert parse_flag_from_env("ACCELERATE_USE_CPU")
    assert not parse_flag_from_env("ACCELERATE_USE_CPU")


@pytest.mark.parametrize("name", ["attack_curves", "evaluation"])
def test_a_benchmark_without_a_model_says_what_it_needs(
    name: str, load: Load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name])
    with pytest.raises(SystemExit):
        load(name).main()
    assert "--model" in capsys.readouterr().err.partition("error: ")[2]


@pytest.mark.parametrize(
    "name", ["feature-pgd:steps=1", "cluster-uap:steps=1,goals=2", "pgd:steps=1", "label-uap:steps=4"]
)
def test_how_strong_every_kind_of_attack_is_can_be_told(name: str, load: Load, tiny_encoder: nn.Module) -> None:
    strength, pixels, labels = load("attacks_strength"), torch.rand(12, 3, 16, 16), torch.arange(12) % 3
    model = tiny_model(tiny_encoder).eval()
    subject = strength.Subject("noise", model, model.encoder, pixels, labels, pixels, labels)
    columns = 2 if isinstance(load_attack(name), (EncoderAttack, FeatureAttack)) else 1
    assert strength.measure(subject, load_attack(name), 6, 0).count("%") == columns


def test_a_row_is_found_by_all_that_it_depends_on(load: Load, tmp_path: Path) -> None:
    rows = load("rows").Rows(tmp_path / "rows.jsonl", ("data", "images"))
    rows.add({"data": "digits", "seconds": 1.0})  # as written before images counted
    rows.add({"data": "digits", "images": 8, "seconds": 2.0})
    assert rows.has(data="digits", images=8)
    assert not rows.has(data="digits", images=9)
    assert not rows.has(data="digits", images=None), "the earlier row does not say"
    assert [row["seconds"] for row in rows.of(data="digits")] == [1.0, 2.0]
    with pytest.raises(KeyError, match="data, images"):
        rows.has(data="digits")
    again = load("rows").Rows(tmp_path / "rows.jsonl", ("data", "sizes"))
    again.add({"data": "signs", "sizes": (1, 2)})
    assert again.has(data="signs", sizes=(1, 2)), "as it is in the file"
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"data": "si')  # the machine went down here
    rows.add({"data": "digits", "images": 9})
    assert len(list(rows)) == len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4, "another process's, too"
    assert rows.has(data="digits", images=9)


def test_an_epoch_of_other_images_is_measured_by_itself(load: Load, tmp_path: Path, monkeypatch: Any) -> None:
    price = load("price")
    trained: list[str] = []

    def train(name: str, task: Any, *_: object) -> SimpleNamespace:
        trained.append(name if task.steps > 1 else f"{name}, before")
        return SimpleNamespace(snapshots=[SimpleNamespace(seconds=1.0)])

    monkeypatch.setattr(price, "trained", train)
    options = argparse.Namespace(repeats=1, device="cpu", threads=1, clock="cpu", seed=0)
    task = price.Task(None, None, epochs=1, seed=0, steps=2, precision="no", batch_size=8)
    rows = price.Rows(tmp_path / "epochs.jsonl", ("trainer", "round", *price.OF_EPOCHS))
    digits = {"data": "digits", "batch_size": 8, "steps": 1, "seed": 0, "images": 8}
    for same in (digits, digits, {**digits, "data": "gtsrb"}, {**digits, "seed": 1}, {**digits, "batch_size": 16}):
        price.measure_epochs(rows, same, task, options)
    assert trained == 4 * [part for name in price.EPOCHS for part in (f"{name}, before", name)]
    assert len(rows.of(**digits)) == len(price.EPOCHS)


def test_a_curve_without_the_points_that_are_asked_for_is_refused(load: Load) -> None:
    price = load("price")
    row = {"trainer": "trades", "curve": [{"epoch": 2}, {"epoch": 4}]}
    price.require_points(row, argparse.Namespace(at=[2, 9], epochs=4, output=Path("rows")))
    with pytest.raises(SystemExit, match=r"trades .* after 1, 3 epochs: name another --output"):
        price.require_points(row, argparse.Namespace(at=[1, 2, 3], epochs=4, output=Path("rows")))


def test_the_table_of_prices_is_that_of_the_rows(load: Load) -> None:
    rows = (ROOT / "docs" / "results" / "price-signs" / "curves.jsonl").read_text("utf-8").splitlines()
    seed_0 = [row for row in map(json.loads, rows) if row["seed"] == 0]
    assert load("price").prices(seed_0) in (ROOT / "docs" / "performance.md").read_text("utf-8")


def test_what_other_models_were_measured_with_is_not_shown_as_ones_own(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers = load("peers")
    pixels, labels = torch.rand(4, 3, 8, 8), torch.zeros(4, dtype=torch.int64)

    def subject(bias: float) -> Any:
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        nn.init.zeros_(model[1].weight)
        model[1].bias.data = torch.tensor([bias, 0.0])  # right where it is positive
        return peers.Subject(model, pixels, labels, pixels, labels)

    def attack(subject: Any, seed: int) -> torch.Tensor:
        assert "peer_of_a_test" in sys.modules, "what imports take is no time of an attack"
        return subject.pixels

    (tmp_path / "peer_of_a_test.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(peers, "MODULES", ("peer_of_a_test",))
    monkeypatch.setattr(peers, "PACKAGES", {"ours": "genaf-sdk"})
    monkeypatch.setattr(peers, "ATTACKS", {"PGD, 1 step": {"ours": attack}})
    monkeypatch.setitem(peers.CLOCKS, "cpu", itertools.count().__next__)
    shown = []
    for bias in (1.0, 1.0, -1.0):
        monkeypatch.setattr(peers, "read_subject", lambda _, bias=bias: subject(bias))
        monkeypatch.setattr(sys, "argv", ["peers.py", "model", "--output", str(tmp_path), "--repeats", "1"])
        peers.main()
        shown.append(capsys.readouterr().out.splitlines()[-1].split(" | ")[3])
    assert shown == ["100.0", "100.0", "0.0"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(("samples", "place"), [("64", "docs"), ("8", "benchmarks")])
def test_rows_of_a_try_are_none_of_the_documentation(
    load: Load, samples: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = load("peers")
    model, labels = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.zeros(2, dtype=torch.int64)
    subject = peers.Subject(model, torch.rand(2, 3, 8, 8), labels, torch.rand(2, 3, 8, 8), labels)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(peers, "MODULES", ())
    monkeypatch.setattr(peers, "PACKAGES", {"ours": "genaf-sdk"})
    monkeypatch.setattr(peers, "ATTACKS", {"PGD, 1 step": {"ours": lambda subject, seed: subject.pixels}})
    monkeypatch.setitem(peers.CLOCKS, "cpu", itertools.count().__next__)
    monkeypatch.setattr(peers, "read_subject", lambda _: subject)
    monkeypatch.setattr(sys, "argv", ["peers.py", "model", "--samples", samples, "--repeats", "1"])
    peers.main()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.jsonl")] == [
        Path(place, "results/peers/rows.jsonl")
    ]


def test_a_row_of_an_encoder_is_none_of_another_size_or_version(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = load("encoders_table")
    one = table.Candidate("ResNet", "an encoder", (64, 64))
    measured: list[tuple[int, int]] = []

    def row(candidate: Any, folder: Path) -> list[str]:
        measured.append(candidate.size)
        return [candidate.family, candidate.name, str(candidate.size)]

    monkeypatch.setattr(table, "row", row)
    monkeypatch.setattr(table, "CANDIDATES", [one])
    monkeypatch.setattr(table, "ProcessPoolExecutor", lambda workers, _: ThreadPoolExecutor(workers))
    monkeypatch.setattr(table.logging, "disable", lambda level: None)
    monkeypatch.setattr(sys, "argv", ["encoders_table.py", "--rows", str(tmp_path / "rows.jsonl")])
    assert [table.main(), table.main()] == [0, 0]
    assert measured == [(64, 64)]
    monkeypatch.setattr(table, "CANDIDATES", [replace(one, size=(32, 32))])
    assert table.main() == 0
    assert "(32, 32)" in capsys.readouterr().out.splitlines()[-3]
    monkeypatch.setattr(table, "version", lambda package: "99")
    assert table.main() == 0
    assert measured == [(64, 64), (32, 32), (32, 32)]


def test_targeted_attacks_have_equally_many_targets(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers")
    targets: list[int] = []

    class Package(ModuleType):
        @staticmethod
        def APGDT(model: nn.Module, n_classes: int, **_: object) -> Callable[..., torch.Tensor]:  # noqa: N802
            targets.append(n_classes - 1)
            return lambda pixels, labels: pixels

    monkeypatch.setitem(sys.modules, "torchattacks", Package("torchattacks"))
    pixels, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64)
    for classes in (43, 5):
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
        peers.torchattacks("APGDT")(peers.Subject(model, pixels, labels, pixels, labels), 0)
    assert targets == [peers.TARGETS, 4]
    assert load_attack("apgd-t").targets == peers.TARGETS  # type: ignore[attr-defined]


def test_every_attack_of_the_default_evaluation_can_be_timed(load: Load) -> None:
    attacks = load("attacks")
    model = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(48, 6)), nn.Linear(6, 5))
    options = argparse.Namespace(repeats=1, clock="cpu")
    pixels, labels = torch.rand(4, 3, 4, 4), torch.arange(4)
    (record,) = attacks.timed(load_attack("feature-pgd:steps=1"), model, pixels, labels, options)
    assert (record["attack"], record["ratio"]) == ("feature-pgd", 1.0)


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ([], "docs/results/methods-bundled-32-digits"),
        (["--quick"], "benchmarks/results/sweep-bundled-32-digits"),
        (["--validation", "--output", "mine"], "mine/sweep-bundled-32-digits"),
    ],
)
def test_a_sweep_leaves_the_rows_of_test_images_alone(
    options: list[str], folder: str, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(*_: object, output_dir: Path, **__: object) -> Comparison:
        measured.append(output_dir.as_posix())
        output_dir.mkdir(parents=True)
        return Comparison()

    robustness, measured = load("robustness"), list[str]()
    images = LabeledImages.in_memory(torch.zeros(2, 3, 4, 4), torch.arange(2))
    monkeypatch.setattr(robustness, "compare", compare)
    monkeypatch.setattr(robustness, "load", lambda *_: DataSplits(images, images, images, ("a", "b")))
    monkeypatch.setattr(sys, "argv", ["robustness.py", "--methods", "fast", *options])
    monkeypatch.chdir(tmp_path)
    robustness.main()
    assert measured == [folder]
    assert [path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("comparison.md")] == [folder]


def test_images_of_a_mosaic_are_enlarged_to_what_the_encoder_takes(load: Load, monkeypatch: Any) -> None:
    robustness, asked = load("robustness"), list[tuple[Any, ...]]()
    monkeypatch.setattr(robustness, "load_mosaic", lambda *given: asked.append(given))
    robustness.load("gtsrb:100", Path(), SimpleNamespace(image_size=(64, 64), interpolation="bicubic"), 3)
    assert asked == [("gtsrb", 100, 3, (64, 64), "bicubic")]


def test_a_model_of_other_classes_gets_no_certificate(load: Load, monkeypatch: Any, tmp_path: Path) -> None:
    certificates = load("certificates")
    two = SimpleNamespace(class_names=("stop", "go"))
    monkeypatch.setattr(certificates, "HardenedModel", SimpleNamespace(from_pretrained=lambda _, backbone: two))
    monkeypatch.setattr(sys, "argv", ["certificates.py", str(tmp_path), "--output", str(tmp_path / "rows.jsonl")])
    with pytest.raises(SystemExit, match=r"has 2 classes, digits has 10: .*--data"):
        certificates.main()


def test_of_every_kind_of_sign_it_is_said_what_masks_leave_of_it(load: Load) -> None:
    class Corner(nn.Module):
        """Right (1) as long as the first pixel is white."""

        image_size = (32, 32)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            white = (pixels[:, 0, 0, 0] == 1).float()
            return torch.stack([1 - white, white], dim=1)

    certificates = load("certificates")
    images = LabeledImages.in_memory(torch.ones(4, 3, 32, 32), torch.tensor([1, 14, 1, 33]))
    parts = certificates.by_kind(Sample.draw(images, seed=0), "gtsrb")
    assert {kind: len(part) for kind, part in parts.items()} == {
        "speed limit": 2,
        "mandatory": 1,
        "of its own shape or color": 1,
    }
    assert sorted(itertools.chain(*certificates.KINDS.values())) == list(range(43))
    config, fill = CertificateConfig(patch=0.03, masks=3), (0.5, 0.5, 0.5)
    found = certificates.under_masks(Corner(), parts["speed limit"], config, fill)
    assert found == {"under_every_mask": 0, "share_of_pairs": round(28 / 36, 4)}, "8 of 36 pairs hide the corner"


@pytest.mark.parametrize("tool", ["write_board", "write_decision", "write_tables"])
def test_a_row_that_was_measured_anew_replaces_the_earlier_one(
    tool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    folder = "methods-bundled-32-digits"
    results = tmp_path / "docs" / "results"
    rows = (ROOT / "docs" / "results" / folder / "comparison.jsonl").read_text().splitlines()
    (results / folder).mkdir(parents=True)

    def shown(lines: list[str]) -> str:
        (results / folder / "comparison.jsonl").write_text("".join(f"{line}\n" for line in lines))
        table = runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))["table"]
        names = table.__globals__
        names.update(ROOT=tmp_path, RESULTS=results)
        for tasks in {"FOLDERS", "TASKS"} & set(names):
            names[tasks] = {folder: names[tasks][folder]}
        arguments = {"write_board": lambda: (names["own_entries"](),), "write_tables": lambda: (folder, ROOT / "a.md")}
        return str(table(*arguments.get(tool, tuple)()))

    stale = [re.sub(r'"correct": \d+', '"correct": 1', row) for row in rows]
    assert shown(stale) != shown(rows)
    assert shown([*stale, *rows]) == shown(rows)
