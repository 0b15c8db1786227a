from __future__ import annotations

import copy
import dataclasses
import io
import json
import os
import pickle
import re
import runpy
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest
import torch
from accelerate import Accelerator
from torch import nn

import genaf_sdk.comparison as comparison_module
import genaf_sdk.trials as trials_module
from genaf_sdk import compare
from genaf_sdk.attacks.label_uap import LabelUAP
from genaf_sdk.attacks.registry import ATTACKS
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.cli import USAGE_ERROR, main
from genaf_sdk.comparison import seconds_of_comparison
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine import fitting
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.cost import processor
from genaf_sdk.engine.stage import Losses, Outputs
from genaf_sdk.errors import AttackError, ConfigError, GenafError, OutputError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.methods import FineTuning, GenAF, presets
from genaf_sdk.preparation import resolved
from genaf_sdk.report.scores import Score
from genaf_sdk.rows import Comparison, ComparisonRow, append_row, read_rows
from genaf_sdk.terminal import PlainConsole
from genaf_sdk.training import trainings
from genaf_sdk.unfinished import Unfinished

if TYPE_CHECKING:
    from genaf_sdk.engine.run import Run

QUICK = EvaluationConfig(
    attacks=("uapgd:steps=3", "label-uap:steps=3", "pgd:steps=2"), surrogate_samples=32, curve=(), checks=False
)


def test_an_error_before_the_first_row_leaves_no_empty_folder(striped: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(GenafError, match="no-such-encoder"):
        compare("no-such-encoder", striped, ["fast"], output_dir=tmp_path / "runs" / "new", progress=False)
    assert list(tmp_path.iterdir()) == []


def quick(name: str, base: HardenConfig) -> HardenConfig:
    return resolved(base, name).with_(method={"schedule": {"epochs": 1}})


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_trains(
    name: str, tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    comparison = compare(tiny_encoder, striped, {name: quick(name, quick_config)}, evaluation=QUICK, progress=False)
    assert set(comparison.rows[0].figures) == {
        "clean",
        "transfer",
        "adaptive",
        "worst DAE",
        "label-uap 10/255",
        "pgd 8/255",
    }


def test_a_comparison_that_was_stopped_goes_on(
    tiny_encoder: nn.Module,
    striped: DataSplits,
    quick_config: HardenConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configs = {name: quick(name, quick_config) for name in ("fine-tuning", "fast")}
    kept = {"evaluation": QUICK, "output_dir": tmp_path, "progress": False}
    first = compare(tiny_encoder, striped, {"fine-tuning": configs["fine-tuning"]}, **kept)  # type: ignore[arg-type]
    file = tmp_path / "comparison.jsonl"
    with file.open("a") as rows:
        rows.write('{"method": "fast", "seed"')  # the machine went down here
    both = compare(tiny_encoder, striped, configs, **kept)  # type: ignore[arg-type]
    assert both.rows[0] == first.rows[0]  # its seconds too: it was not computed again
    assert read_rows(file) == both.rows
    assert both.methods == ["fine-tuning", "fast"]
    assert (tmp_path / "comparison.md").read_text().count("\n") == 8
    assert "<svg" in (tmp_path / "comparison.svg").read_text()
    changed = {"fast": configs["fast"].with_(method={"adaptability": {"epochs": 1}})}
    told = {"evaluation": QUICK, "output_dir": tmp_path}
    assert seconds_of_comparison(tiny_encoder, striped, configs, **told) == {}  # type: ignore[arg-type]
    assert seconds_of_comparison(tiny_encoder, striped, changed, **told)["fast"] > 0  # type: ignore[arg-type]
    assert "measured anew" not in caplog.text
    assert compare(tiny_encoder, striped, changed, **kept).rows[0] != both.rows[1]  # type: ignore[arg-type]
    assert len(read_rows(file)) == 3
    assert "fast, seed 0 is measured anew, as its row has: method.adaptability.epochs was 0 and is 1." in caplog.text


class KilledError(BaseException):
    """Ends a comparison as abruptly as an exception can."""


@pytest.mark.parametrize("place", ["transferred", "training", "attacks"])
def test_a_comparison_goes_on_within_a_row(
    place: str,
    tiny_encoder: nn.Module,
    striped: DataSplits,
    quick_config: HardenConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is done is not done again, figures are those of an undisturbed one, and nothing is left beside the rows."""
    config = quick("fine-tuning", quick_config).with_(method={"schedule": {"epochs": 3}})
    given: dict[str, Any] = {"evaluation": QUICK, "progress": False}
    (undisturbed,) = compare(tiny_encoder, striped, {"fine-tuning": config}, **given).rows
    steps, attacks = list[int](), list[str]()
    train, tries, labeled = fitting.Fitting.training_step, UAPGD.tries, LabelUAP.__call__

    def step(*arguments: Any) -> None:
        steps.append(1)
        if place == "training" and len(steps) == 5:  # of three steps an epoch
            raise KilledError
        train(*arguments)

    def craft(*arguments: Any, **options: Any) -> Any:
        attacks.append("uapgd")
        return tries(*arguments, **options)

    def craft_with_labels(*arguments: Any, **options: Any) -> Any:
        attacks.append("label-uap")
        if place == "attacks":
            raise KilledError
        return labeled(*arguments, **options)

    def try_out(*_: object) -> None:
        if place == "transferred" and attacks == ["uapgd"]:
            raise KilledError

    monkeypatch.setattr(UAPGD, "tries", craft)
    monkeypatch.setattr(LabelUAP, "__call__", craft_with_labels)
    monkeypatch.setattr(trials_module, "require_ready", lambda *_: None)
    monkeypatch.setattr(fitting.Fitting, "training_step", step)
    monkeypatch.setattr(trials_module, "trainings", lambda *all_: (try_out(), trainings(*all_))[1])
    with pytest.raises(KilledError):
        compare(tiny_encoder, striped, {"fine-tuning": config}, output_dir=tmp_path, **given)
    done, place = {"transferred": (0, 1), "training": (3, 1), "attacks": (9, 2)}[place], ""
    steps.clear()
    attacks.clear()
    (row,) = compare(tiny_encoder, striped, {"fine-tuning": config}, output_dir=tmp_path, **given).rows
    assert (9 - len(steps), 3 - len(attacks)) == done
    assert [replace(score, seconds=0.0) for score in row.scores] == [
        replace(score, seconds=0.0) for score in undisturbed.scores
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.jsonl", "comparison.md", "comparison.svg"}


@pytest.fixture
def one_row(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> Callable[[], ComparisonRow]:
    """Compares one method into the test's folder."""

    def measured() -> ComparisonRow:
        configs = {"fine-tuning": quick("fine-tuning", quick_config)}
        (row,) = compare(tiny_encoder, striped, configs, evaluation=QUICK, output_dir=tmp_path, progress=False).rows
        return row

    return measured


@pytest.fixture
def killed_after_training(one_row: Callable[[], ComparisonRow], monkeypatch: pytest.MonkeyPatch) -> None:
    """There was a comparison in the test's folder that was killed before the first attack on its model."""

    def die(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "evaluate", die)
        with pytest.raises(KilledError):
            one_row()


@pytest.mark.usefixtures("killed_after_training")
def test_training_that_went_on_states_the_time_of_all_processes(
    one_row: Callable[[], ComparisonRow], tmp_path: Path
) -> None:
    (metadata,) = tmp_path.glob("unfinished/*/checkpoints/*/*/metadata.json")
    noted = json.loads(metadata.read_text())
    assert noted["cpu_seconds"] > 0
    history = [{**record, "seconds": 100.0} for record in noted["history"]]
    metadata.write_text(json.dumps(noted | {"cpu_seconds": 200.0, "history": history}))
    row = one_row()
    assert 100 <= row.seconds < 150
    assert 200 <= row.cpu_seconds < 250


def test_a_row_states_the_rate_that_its_range_test_chose(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    """Two trainings of one row on different processors may differ by it; a rate that is given is in the settings."""
    given = quick("fine-tuning", quick_config)
    chosen = given.with_(method={"schedule": {"encoder_learning_rate": "auto"}})
    both = {"given": given, "chosen": chosen}
    compare(tiny_encoder, striped, both, evaluation=QUICK, progress=False, output_dir=tmp_path)
    of_given, of_chosen = read_rows(tmp_path / "comparison.jsonl")
    assert not of_given.learning_rates
    (rate,) = of_chosen.learning_rates.values()
    assert 1e-6 < rate <= 1e-2


def test_of_two_processes_at_one_row_one_keeps_what_it_does(
    one_row: Callable[[], ComparisonRow],
    tiny_encoder: nn.Module,
    striped: DataSplits,
    quick_config: HardenConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = quick("fine-tuning", quick_config).with_(evaluation=QUICK)
    public = load_encoder(tiny_encoder)
    row = trials_module.row_without_scores("fine-tuning", config, public, striped.fingerprint)
    with Unfinished(tmp_path).cell(row) as own:
        assert own is not None
        found = one_row()
        assert own.is_dir(), "who holds it still works there"
    assert found.scores
    assert "fine-tuning, seed 0 keeps nothing of what it does: The output folder" in caplog.text
    (own / "checkpoints").mkdir(parents=True)  # it was killed
    one_row()
    assert not (tmp_path / "unfinished").exists()


def test_what_is_over_is_removed_and_nothing_else(tmp_path: Path) -> None:
    one, other = (ComparisonRow("fast", seed, {}, "", (), 0.0, 0.0) for seed in range(2))
    unfinished = Unfinished(tmp_path)
    with pytest.raises(KilledError), unfinished.cell(one):
        raise KilledError
    assert list(tmp_path.iterdir()) == [], "it was killed before it did anything"
    (tmp_path / "unfinished" / "transferred").mkdir(parents=True)
    for row in (one, other):
        with unfinished.cell(row) as own:
            assert own is not None
            (own / "checkpoints").mkdir()
    unfinished.forget(one)
    unfinished.end()
    assert {path.name for path in tmp_path.glob("unfinished/*")} == {"transferred", own.name}
    unfinished.forget(other)
    unfinished.end()
    assert list(tmp_path.iterdir()) == []


def test_several_processes_of_accelerate_keep_nothing_of_a_row(tmp_path: Path) -> None:
    """One of them has the folder, and would wait for the others."""
    run = cast("Run", SimpleNamespace(processes=SimpleNamespace(count=2, is_first=True)))
    assert trials_module._checkpoints(tmp_path, {}, run).folder is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [None, Path("nowhere")])
def test_a_machine_without_the_folder_keeps_nothing(folder: Path | None, tmp_path: Path) -> None:
    row = ComparisonRow("fast", 0, {}, "", (), 0.0, 0.0)
    unfinished = Unfinished(None if folder is None else tmp_path / folder)
    with unfinished.cell(row) as own:
        assert own is unfinished.transferred is None
    unfinished.forget(row)
    unfinished.end()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("killed_after_training")
def test_what_another_version_kept_is_replaced(
    one_row: Callable[[], ComparisonRow], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run,) = tmp_path.glob("unfinished/*/checkpoints/run.json")
    run.write_text(json.dumps(json.loads(run.read_text()) | {"genaf_sdk": "0.0.1"}))
    assert one_row().scores
    assert "was started with something else: genaf_sdk was '0.0.1' and is" in caplog.text
    assert "The row is trained anew." in caplog.text
    assert not (tmp_path / "unfinished").exists()


def test_a_row_of_another_encoder_is_not_taken_for_this_one(
    tiny_encoder: nn.Module,
    striped: DataSplits,
    quick_config: HardenConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    configs = {"fine-tuning": quick("fine-tuning", quick_config)}
    kept = {"evaluation": QUICK, "output_dir": tmp_path, "progress": False}
    (one,) = compare(tiny_encoder, striped, configs, **kept).rows  # type: ignore[arg-type]
    other_encoder = copy.deepcopy(tiny_encoder)
    with torch.no_grad():
        next(other_encoder.parameters()).mul_(1.5)
    told = {"evaluation": QUICK, "output_dir": tmp_path}
    assert seconds_of_comparison(tiny_encoder, striped, configs, **told) == {}  # type: ignore[arg-type]
    assert seconds_of_comparison(other_encoder, striped, configs, **told)["fine-tuning"] > 0  # type: ignore[arg-type]
    (other,) = compare(other_encoder, striped, configs, **kept).rows  # type: ignore[arg-type]
    assert "fine-tuning, seed 0 is measured anew, as its row has: another encoder." in caplog.text
    assert one.encoder != other.encoder
    assert one.scores != other.scores
    assert read_rows(tmp_path / "comparison.jsonl") == [one, other]


def test_two_processes_with_one_folder_share_their_rows(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    """The other one measures all methods while the first method is measured here, and the second after it."""
    configs = {name: quick("fine-tuning", quick_config) for name in ("one", "two")}
    kept = {"evaluation": QUICK, "output_dir": tmp_path, "progress": False}
    others: list[Comparison] = []

    def beside(row: ComparisonRow) -> None:
        if row.method == "one":
            others.append(compare(tiny_encoder, striped, configs, **kept))  # type: ignore[arg-type]

    own = compare(tiny_encoder, striped, configs, on_row=beside, **kept)  # type: ignore[arg-type]
    assert own.rows == others[0].rows == read_rows(tmp_path / "comparison.jsonl")


def test_a_row_is_written_once_whoever_writes_it(tmp_path: Path) -> None:
    file, rows = tmp_path / "rows.jsonl", [row(f"method {number}", 0, 90) for number in range(10)]
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(lambda own: append_row(file, own), 8 * rows))
    assert found == 8 * rows
    assert sorted(each.method for each in read_rows(file)) == sorted(each.method for each in rows)


def test_transferred_perturbations_are_the_same_for_all_methods(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    """An attack on single images too, whose row the first method alone had before."""
    same = {name: quick("fine-tuning", quick_config) for name in ("one", "two")}
    more = QUICK.with_(attacks=(*QUICK.attacks, "cluster-uap:steps=3,goals=2", "feature-pgd:steps=2"))
    first, second = compare(tiny_encoder, striped, same, evaluation=more, progress=False).rows
    assert first.figures == second.figures
    without_time = ([dataclasses.replace(score, seconds=0.0) for score in row.scores] for row in (first, second))
    assert next(without_time) == next(without_time)
    assert {score.attack for score in second.scores if score.column == "transfer"} >= {"cluster-uap", "feature-pgd"}


class Fatal(FineTuning):
    """Ends the process that it trains in."""

    name = "fatal"

    def losses(self, outputs: Outputs, batch: Batch) -> Losses:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@pytest.mark.multiprocess
def test_rows_of_other_processes_are_the_same_and_a_lost_one_costs_its_cell(
    few: DataSplits, quick_config: HardenConfig, tmp_path: Path
) -> None:
    configs = {"fine-tuning": quick("fine-tuning", quick_config)}
    given = {"evaluation": QUICK, "progress": False}
    alone = compare("bundled:simclr-cifar10", few, configs, **given)  # type: ignore[arg-type]
    configs["fatal"] = configs["fine-tuning"].with_(method=Fatal())
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        shared = compare("bundled:simclr-cifar10", few, configs, output_dir=tmp_path, executor=pool, **given)  # type: ignore[arg-type]
    assert [row.figures for row in shared.rows] == [row.figures for row in alone.rows]
    assert [row.method for row in read_rows(tmp_path / "comparison.jsonl")] == ["fine-tuning"]
    assert [(cell.method, cell.seed) for cell in shared.failed] == [("fatal", 0)]
    assert "Not measured: fatal, seed 0: LostWorkerError" in (tmp_path / "comparison.md").read_text()


class SlurmLike:
    """What has a ``submit`` and jobs of its own kind, as submitit has; cells are pickled on the way."""

    def __init__(self, unpickle: Callable[[bytes], Any] = pickle.loads) -> None:
        self.unpickle = unpickle

    def submit(self, fn: Any, /) -> Any:
        job: Future[Any] = Future()
        try:
            job.set_result(self.unpickle(pickle.dumps(fn))())
        except GenafError as error:
            job.set_exception(error)
        return job


def test_other_images_on_another_machine_are_refused(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig
) -> None:
    def with_other_images(content: bytes) -> Any:
        cell = pickle.loads(content)
        cell.cell.group.dataset.test.labels.copy_(cell.cell.group.dataset.test.labels.flip(0))
        return cell

    configs = {"fine-tuning": quick("fine-tuning", quick_config)}
    given = {"evaluation": QUICK, "progress": False}
    failed = compare(tiny_encoder, striped, configs, executor=SlurmLike(with_other_images), **given).failed  # type: ignore[arg-type]
    assert "the same images on every machine" in failed[0].reason
    assert compare(tiny_encoder, striped, configs, executor=SlurmLike(), **given).failed == []  # type: ignore[arg-type]


@pytest.mark.multiprocess
@pytest.mark.parametrize(("kind", "package"), [("slurm", "submitit"), ("dask", "dask.distributed")])
def test_the_example_of_many_runs_runs(
    kind: str, package: str, few: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.setattr(comparison_module, "COMPARED", QUICK)
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "many_runs.py"))
    comparison = example["main"](kind, few, epochs=1, seeds=(0,), output_dir=str(tmp_path))
    assert comparison.failed == []
    assert comparison.methods == ["fine-tuning", "universal-at"]


def row(method: str, seed: int, correct: int) -> ComparisonRow:
    scores = tuple(
        Score("hardened", column, attack, budget, 100, correct - fewer, 0, perturbation=f"{column}-{attack}")  # type: ignore[arg-type]
        for column, attack, budget, fewer in (
            ("clean", "", 0.0, 0),
            ("transfer", "uapgd", 10 / 255, 5),
            ("transfer", "advencoder-per", 10 / 255, 9),
            ("adaptive", "uapgd", 10 / 255, 7),
            ("white-box", "pgd", 4 / 255, 20),
            ("white-box", "pgd", 4 / 255, 3),  # in fewer steps: the lowest counts
        )
    )
    return ComparisonRow(method, seed, {}, "", scores, 1.0, (2.0, 3.0, 90.0)[seed])


def test_figures_are_the_worst_of_each_column_and_spread_over_seeds() -> None:
    comparison = Comparison([row("a", 0, 90), row("a", 1, 94), row("b", 0, 50)])
    figures = comparison.figures("a")
    assert figures["worst DAE"] == pytest.approx((0.83, 0.02 * 2**0.5))
    assert figures["transfer"] == figures["worst DAE"]
    assert figures["pgd 4/255"][0] == pytest.approx(0.72)
    header, first, second = comparison.cells()
    assert first[header.index("clean")] == "92.0 ± 2.8"
    assert second[header.index("clean")] == "50.0"
    assert "90.0 ± 0.0" in Comparison([row("a", 0, 90), row("a", 1, 90)]).cells()[1], "two seeds, not one"
    assert comparison.table().row_count == len(header) - 1
    assert [column.header for column in comparison.table().columns] == ["method", "a", "b"]


def test_times_of_different_processors_are_told_apart(tmp_path: Path) -> None:
    old, new = row("a", 0, 90), dataclasses.replace(row("b", 0, 90), processor="x86_64 AVX2")
    gpu = dataclasses.replace(row("c", 0, 90), processor="NVIDIA H100")
    assert Comparison([old]).processors == "", "an older row"
    assert Comparison([new, new]).markdown().endswith("\n\nCPU seconds are of x86_64 AVX2\n")
    told = "CPU seconds of different processors cannot be compared. x86_64 AVX2: b; NVIDIA H100: c"
    assert Comparison([new, gpu]).processors == told
    assert Comparison([new, old]).processors.endswith(" x86_64 AVX2: b; one that is not stated: a")
    for rows, told in (([new, gpu], False), ([new, new], True), ([old], True)):
        Comparison(rows).plot(tmp_path / "plot.svg")
        drawn = (tmp_path / "plot.svg").read_text()
        assert ("area is the processor time" in drawn, "of different processors" in drawn) == (told, not told)


def test_every_attack_has_its_figure_and_every_figure_its_n() -> None:
    """One on each image by its features, too; and of two seeds of which one lacks it nothing is said to spread."""
    each = Score("hardened", "adaptive", "feature-pgd", 8 / 255, 20, 0, 20)  # type: ignore[arg-type]
    first, second = row("a", 0, 90), row("a", 1, 94)
    comparison = Comparison([dataclasses.replace(first, scores=(*first.scores, each)), second])
    name = "feature-pgd 8/255 (adaptive)"
    assert comparison.rows[0].figures == first.figures | {name: 0.0}, "it is no perturbation for all images"
    header, line = comparison.cells()
    assert (line[header.index(name)], line[header.index("clean")]) == ("0.0", "92.0 ± 2.8")
    reach = 100 * each.interval[1]
    assert comparison.certainty.endswith(f"pgd 4/255: n = 100, up to ± 9.6; {name}: n = 20, up to ± {reach:.1f}")
    assert comparison.markdown().endswith(f"|\n\n{comparison.certainty}\n")
    shown = io.StringIO()
    PlainConsole(file=shown, width=200).print(comparison.table())
    assert f"{name}: n = 20" in shown.getvalue()
    assert Comparison([]).certainty == ""


def test_the_table_of_five_methods_is_whole_on_a_narrow_terminal() -> None:
    methods = ("default", "fast", "fine-tuning", "pgd-at", "trades")
    shown = io.StringIO()
    console = PlainConsole(file=shown, width=80)
    console.print(Comparison([row(method, 0, 90) for method in methods]).table())
    assert all(f" {name} " in shown.getvalue() for name in (*methods, "pgd 4/255", "CPU seconds"))


def test_a_run_on_a_busy_machine_does_not_lengthen_the_others() -> None:
    header, line = Comparison([row("a", seed, 90) for seed in (0, 1, 2)]).cells()
    assert line[header.index("CPU seconds")] == "3"


def test_the_plot_has_a_panel_for_each_threat_and_names_what_lies_on_one_point_once(tmp_path: Path) -> None:
    Comparison([row("a", 0, 90), row("b", 0, 90), row("c", 0, 50)]).plot(tmp_path / "plot.svg")
    drawing = (tmp_path / "plot.svg").read_text()  # matplotlib leaves every text as a comment beside its outlines
    texts = ("accuracy under the worst DAE in %", "accuracy under PGD 4/255 in %", "a, b", "c")
    assert [drawing.count(f"<!-- {text} -->") for text in texts] == [1, 1, 2, 2]
    larger = Score("hardened", "white-box", "pgd", 16 / 255, 100, 5, 0)  # type: ignore[arg-type]
    Comparison([dataclasses.replace(row("a", 0, 90), scores=(larger, *row("a", 0, 90).scores))]).plot(
        tmp_path / "two.svg"
    )
    assert "<!-- accuracy under PGD 4/255 in % -->" in (tmp_path / "two.svg").read_text(), "of two budgets the least"
    without = dataclasses.replace(row("a", 0, 90), scores=row("a", 0, 90).scores[:4])
    Comparison([without]).plot(tmp_path / "plot.svg")
    drawing = (tmp_path / "plot.svg").read_text()
    assert [drawing.count(f"<!-- {text} -->") for text in texts] == [1, 0, 0, 0]


def test_rows_survive_json(tmp_path: Path) -> None:
    made = row("a", 0, 90)
    assert ComparisonRow.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["figures"]["clean"] == 0.9
    (tmp_path / "rows.jsonl").write_text('{"method": 1}\n')
    with pytest.raises(OutputError, match=r"rows\.jsonl is damaged"):
        read_rows(tmp_path / "rows.jsonl")


def test_what_cannot_be_compared_is_named(tiny_encoder: nn.Module, striped: DataSplits) -> None:
    with pytest.raises(ConfigError, match=r"'tradez'.*trades"):
        compare(tiny_encoder, striped, ["tradez"])
    with pytest.raises(ConfigError, match=r"'fats'. Expected: one of default, .*To do: try fast"):
        compare(tiny_encoder, striped, ["fats"])
    with pytest.raises(ConfigError, match="at least one"):
        compare(tiny_encoder, striped, [])
    with pytest.raises(ConfigError, match=r"'gen-af' is there twice.*mapping"):
        compare(tiny_encoder, striped, [GenAF(), GenAF(genetic_weight=0.0)])
    with pytest.raises(ConfigError, match=r"0 is there twice.*each seed once"):
        compare(tiny_encoder, striped, ["fast"], seeds=(0, 1, 0))


@pytest.mark.parametrize("executor", [None, SlurmLike()])
@pytest.mark.parametrize("broken", [UAPGD, LabelUAP])
def test_a_row_that_lacks_an_attack_is_none(
    broken: type[Any],
    executor: Any,
    tiny_encoder: nn.Module,
    striped: DataSplits,
    quick_config: HardenConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would flatter its method: what is lowest is taken over the attacks that are there."""

    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(broken, "_craft", fail)
    configs = {"fine-tuning": quick("fine-tuning", quick_config)}
    given: dict[str, Any] = {"evaluation": QUICK, "progress": False, "executor": executor}
    if executor is None:
        with pytest.raises(AttackError, match="lack an attack"):
            compare(tiny_encoder, striped, configs, **given)
    else:
        comparison = compare(tiny_encoder, striped, configs, **given)
        assert comparison.rows == []
        assert "lack an attack" in comparison.failed[0].reason


def test_what_is_tried_beforehand_is_no_cost_of_the_first_method(
    tiny_encoder: nn.Module, striped: DataSplits, quick_config: HardenConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    plain = trials_module.trainings

    def training(*arguments: Any) -> Any:
        order.append("trained")
        return plain(*arguments)

    monkeypatch.setattr(trials_module, "trainings", training)
    monkeypatch.setattr(trials_module, "require_ready", lambda *_: order.append("tried"))
    same = {name: quick("fine-tuning", quick_config) for name in ("one", "two")}
    compare(tiny_encoder, striped, same, evaluation=QUICK, progress=False)
    assert order == ["tried", "trained", "trained"]


@dataclass(frozen=True)
class Mine(UAPGD):
    """An attack of somebody else."""

    name: ClassVar[str] = "mine"


@pytest.fixture
def few(striped: DataSplits) -> DataSplits:
    """Stripes at the size of the bundled encoder."""
    return load_data([part.sample() for part in (striped.train, striped.validation, striped.test)], image_size=(32, 32))


def test_the_example_runs(
    few: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison_module, "COMPARED", QUICK)
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "compare_methods.py"))
    comparison = example["main"](few, epochs=1, seeds=(0,), output_dir=str(tmp_path))
    assert comparison.methods == ["fine-tuning", "default", "default, no genetic term"]
    assert "| default, no genetic term |" in capsys.readouterr().out


def test_the_command_compares_and_lists(
    few: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--list"]) == 0
    assert "universal-at" in capsys.readouterr().out
    monkeypatch.setattr(comparison_module, "load_images", lambda *_: few)
    monkeypatch.setattr(ATTACKS, "_items", {**ATTACKS.items(), "mine": Mine})
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"evaluation": {"surrogate_samples": 32, "attacks": ["uapgd"]}}))
    attacks = ["mine:steps=3", "uapgd:steps=3", "pgd:steps=2"]
    evaluation = ["--config", str(settings), "--attacks", *attacks, "--sample-wise-budget", "6/255"]
    shared = ["--head", "linear", "--machine.micro-batch-size", "16"]
    command = ["compare", "--methods", "linear-probe", "--output-dir", str(tmp_path), *evaluation, *shared]
    assert main(command) == 0
    (measured,) = read_rows(tmp_path / "comparison.jsonl")
    assert list(measured.attacks) == attacks
    assert {(score.attack, round(255 * score.budget)) for score in measured.scores} >= {("mine", 10), ("pgd", 6)}
    assert measured.config["evaluation"]["surrogate_samples"] == 32
    assert (measured.config["head"], measured.config["machine"]["micro_batch_size"]) == ("linear", 16)
    assert measured.processor == processor(Accelerator().device)
    told = " ".join(capsys.readouterr().err.split())
    assert re.search(r"takes about \d+ (s|min) here: linear-probe \d+ (s|min)\.", told)
    assert re.search(r"published encoder, seed 0: transfer: uapgd", told), "attacks are told, too, where no terminal is"
    assert main(command) == 0
    assert "takes about" not in capsys.readouterr().err, "all of it is there"
    assert "linear-probe" in (tmp_path / "comparison.md").read_text()
    assert main(["compare", "--methods", "tradez", "--output-dir", str(tmp_path)]) == USAGE_ERROR
    assert "trades" in capsys.readouterr().err
    command = ["compare", "--data", "nowhere", "--output-dir", str(tmp_path / "new")]
    monkeypatch.undo()
    assert main(command) == USAGE_ERROR
    assert not (tmp_path / "new").exists(), "nothing was measured, so nothing is left"
