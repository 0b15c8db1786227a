"""Runs that break in every place: what was trained predicts as it did, and a resumed run does the rest."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from training import TinyEncoder, stripes

from genaf_sdk import HardenConfig, HardenedModel, HardenResult, evaluate
from genaf_sdk.attacks import EncoderAttack
from genaf_sdk.attacks.registry import ATTACKS
from genaf_sdk.cli import INTERRUPTED, STOPPED, UNEXPECTED, USAGE_ERROR, main
from genaf_sdk.cli.making import Harden
from genaf_sdk.cli.output import CHECK_FAILED, DONE
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.errors import ExportError, HubError
from genaf_sdk.export.to_onnx import INPUT, OUTPUT
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.models.checksums import check_whole
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.report.robustness import RobustnessReport

STEPS = {"undefended": 2, "stage 1": 2, "stage 2": 2}
CONFIG = HardenConfig().with_(
    baseline={"epochs": 1, "encoder_learning_rate": 1e-3},
    method={
        "schedule": {"epochs": 1, "batch_size": 24, "encoder_learning_rate": 1e-3},
        "adaptability": {
            "epochs": 1,
            "probe_epochs": 0,  # stage 2 takes place whatever there is to gain
            "batch_size": 24,
            "interpolations": 1,
            "sensitivity": {"steps": 1, "samples": 12},
        },
    },
    machine={"mixed_precision": "no"},
    export={"precisions": ()},
    evaluation={
        "attacks": ("uapgd:steps=2", "pgd:steps=2"),
        "surrogate_samples": 12,
        "sample_wise_samples": 6,
        "curve": (),
        "checks": False,
    },
)
ROWS = {"", "noise", "uapgd", "pgd"}
PIXELS = stripes(4, 9)[0]


def images() -> DataSplits:
    parts = [LabeledImages.in_memory(*stripes(count, seed)) for seed, count in enumerate((48, 12, 12))]
    return DataSplits(*parts, class_names=("red", "green", "blue"), name="stripes")


def encoder() -> PixelEncoder:
    torch.manual_seed(0)
    return PixelEncoder(TinyEncoder()).eval()


def traced_quickly(model: nn.Module, example: Tensor) -> onnx.ModelProto:
    """Export by torch's older tracer, which takes a tenth of the time; files are compared with the model as ever."""
    path = Path(os.environ["PYTEST_TMP"]) / "traced.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (example,), path, dynamo=False, input_names=[INPUT], output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )  # fmt: skip
    return onnx.load(path)


@dataclass
class Runner:
    """``genaf harden`` on a tiny encoder, into one folder, with what it said and how many steps it took."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]
    said: str = ""
    steps: int = 0

    def __call__(self, config: HardenConfig = CONFIG, *, resume: bool = False) -> int:
        """Run, and return the exit code."""
        command = Harden(output_dir=self.folder, settings=config, quiet=True, resume=resume)
        original, self.steps = Fitting.training_step, 0

        def counted(*arguments: Any) -> None:
            self.steps += 1
            original(*arguments)

        with self.monkeypatch.context() as patch:
            patch.setattr("genaf_sdk.cli._parsed", lambda _: command)
            patch.setattr(Fitting, "training_step", counted)
            code = main([])
        printed = self.capsys.readouterr()
        self.said = " ".join(f"{printed.out} {printed.err}".split())
        return code

    def predicts_as(self, weights: dict[str, Tensor]) -> bool:
        """Whether the model on disk is that of these weights."""
        model = HardenedModel.from_pretrained(self.folder, backbone=TinyEncoder())
        expected = copy.deepcopy(model)
        expected.load_state_dict(weights)
        return bool(torch.equal(model(PIXELS), expected.eval()(PIXELS)))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path))
    monkeypatch.setattr("genaf_sdk.pipeline.load_published", lambda *_, **__: encoder())
    monkeypatch.setattr("genaf_sdk.pipeline.load_images", lambda *_, **__: images())
    monkeypatch.setattr("genaf_sdk.pipeline.require_ready", lambda *_: None)  # whose steps would be counted
    # What takes seconds and is tested elsewhere: charts, the bill of materials, and torch's newer tracer.
    monkeypatch.setattr("genaf_sdk.report.robustness.html_report", lambda _: "<!doctype html>")
    monkeypatch.setattr("genaf_sdk.export.bundle.can_write_bill", lambda: False)
    monkeypatch.setattr("genaf_sdk.export.to_onnx._traced", traced_quickly)
    return Runner(tmp_path / "run", monkeypatch, capsys)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """The weights that a run ends in which nothing disturbs."""
    from genaf_sdk import harden

    result: HardenResult = harden(encoder(), images(), CONFIG, evaluate=False, progress=False, preflight=False)
    return result.model.state_dict()


def fails(
    target: str, error: BaseException, *, call: int = 1, when: str = "", ever: bool = False
) -> Callable[[pytest.MonkeyPatch], None]:
    """Have a function raise in its ``call``-th call of those with ``when`` in an argument, or in all of them."""

    def inject(patch: pytest.MonkeyPatch) -> None:
        original, count = _found(target), 0

        def broken(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            met = not when or any(when in str(value) for value in arguments)
            count += met
            if met and (ever or count == call):
                raise error
            return original(*arguments, **options)

        patch.setattr(target, broken)

    return inject


def _found(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(resolve_name(module), name)


def full(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Have the disk be full when a file of that name is to be flushed."""
    return fails("genaf_sdk.files._settle", OSError(errno.ENOSPC, "No space left on device"), when=f".{name}.")


def full_checkpoint(stage: str) -> Callable[[pytest.MonkeyPatch], None]:
    return fails(
        "genaf_sdk.engine.checkpoints._flush", OSError(errno.ENOSPC, "No space left on device"), when=f"/{stage}/"
    )


@dataclass(frozen=True)
class Break:
    """What is broken, how the run ends, and what is on disk then.

    Args:
        inject: Breaks it.
        code: Exit code.
        named: Words that are printed.
        model: Whether the model was trained, and so is on disk.
        left: How many training steps a resumed run has left.
        measured: Whether the attacks were done and are not done again.
    """

    inject: Callable[[pytest.MonkeyPatch], None]
    code: int
    named: str
    model: bool = True
    left: int = 0
    measured: bool = False


STEP = "genaf_sdk.engine.fitting.Fitting.training_step"
OUT_OF_MEMORY = "out of memory, say"
BREAKS = {
    # While models are trained: at most an epoch is lost.
    "Ctrl-C in the baseline": Break(fails(STEP, KeyboardInterrupt()), INTERRUPTED, "interrupted", False, 6),
    "Ctrl-C in stage 1": Break(fails(STEP, KeyboardInterrupt(), call=4), INTERRUPTED, "interrupted", False, 4),
    "Ctrl-C in stage 2": Break(fails(STEP, KeyboardInterrupt(), call=6), INTERRUPTED, "interrupted", False, 2),
    "memory in stage 1": Break(fails(STEP, MemoryError(OUT_OF_MEMORY), call=3), UNEXPECTED, OUT_OF_MEMORY, False, 4),
    "sensitivity": Break(
        fails("genaf_sdk.methods.adaptability.robust_sensitivity", KeyboardInterrupt()),
        INTERRUPTED, "interrupted", False, 2,
    ),
    "guard": Break(
        fails("genaf_sdk.methods.guard.Guard.universal", RuntimeError("device lost")),
        UNEXPECTED, "device lost", False, 0,
    ),
    "full disk at a checkpoint of the baseline": Break(
        full_checkpoint("undefended"), USAGE_ERROR, "No space left", False, 6
    ),
    "full disk at a checkpoint of stage 2": Break(full_checkpoint("stage-2"), USAGE_ERROR, "No space left", False, 2),
    "full disk at metrics.jsonl": Break(full("metrics.jsonl"), USAGE_ERROR, "metrics.jsonl", False, 4),
    "full disk at sensitivity.json": Break(full("sensitivity.json"), USAGE_ERROR, "sensitivity.json", False, 2),
    # The model is trained: only its file can be missing, and checkpoints hold it.
    "full disk at the model": Break(full("model.safetensors"), USAGE_ERROR, "model.safetensors", False, 0),
    "full disk at the model's config": Break(full("config.json"), USAGE_ERROR, "config.json", False, 0),
    # While it is attacked.
    "an attack": Break(
        fails("genaf_sdk.attacks.uapgd.UAPGD.run", RuntimeError("no kernel")), CHECK_FAILED, "no kernel"
    ),
    "an attack on single images": Break(
        fails("genaf_sdk.attacks.pgd.PGD.run", MemoryError(OUT_OF_MEMORY)), CHECK_FAILED, OUT_OF_MEMORY
    ),
    "noise": Break(fails("genaf_sdk.attacks.noise.Noise.run", ValueError("no noise")), CHECK_FAILED, "no noise"),
    "Ctrl-C in an attack": Break(
        fails("genaf_sdk.attacks.uapgd.UAPGD.run_from", KeyboardInterrupt()), INTERRUPTED, "interrupted"
    ),
    "an attack that ends the program": Break(
        fails("genaf_sdk.attacks.pgd.PGD.run", KeyboardInterrupt()), INTERRUPTED, "interrupted"
    ),
    "scoring": Break(
        fails("genaf_sdk.evaluation.scoring.Scoring.universal", MemoryError(OUT_OF_MEMORY)), UNEXPECTED, OUT_OF_MEMORY
    ),
    "pictures": Break(
        fails("genaf_sdk.evaluation.evaluate.gallery_section", OSError("no picture")), CHECK_FAILED, "no picture"
    ),
    "description": Break(fails("genaf_sdk.pipeline.describe", KeyError("seconds")), UNEXPECTED, "seconds"),
    # While the report is written.
    "full disk at a perturbation": Break(full("noise.safetensors"), USAGE_ERROR, "noise.safetensors"),
    "full disk at the report": Break(full("report.json"), USAGE_ERROR, "report.json"),
    "full disk at the page": Break(full("report.html"), USAGE_ERROR, "report.html"),
    "the page": Break(
        fails("genaf_sdk.report.robustness.html_report", KeyError("axes"), ever=True),
        CHECK_FAILED, "axes", measured=True,
    ),
    "full disk at the note of it": Break(full("measured.json"), USAGE_ERROR, "measured.json"),
    "full disk at the scores": Break(
        fails("genaf_sdk.engine.tracking.Metrics.scores", OSError(errno.ENOSPC, "No space left on device")),
        UNEXPECTED, "No space left", measured=True,
    ),
    # While the bundle is written.
    "exporter": Break(
        fails("genaf_sdk.export.to_onnx._traced", RuntimeError("no such operator")),
        CHECK_FAILED, "no such operator", measured=True,
    ),
    "exporter of another kind": Break(
        fails("genaf_sdk.export.to_onnx._traced", KeyError("aten")), CHECK_FAILED, "aten", measured=True
    ),
    "checker": Break(
        fails("genaf_sdk.export.to_onnx.onnx.checker.check_model", TypeError("odd graph")),
        CHECK_FAILED, "odd graph", measured=True,
    ),
    "parity": Break(
        fails("genaf_sdk.export.bundle.check_parity", ExportError("The file is not the model.")),
        CHECK_FAILED, "not the model", measured=True,
    ),
    "replay": Break(
        fails("genaf_sdk.export.bundle.replay", RuntimeError("onnxruntime says no")),
        CHECK_FAILED, "onnxruntime says no", measured=True,
    ),
    "card": Break(
        fails("genaf_sdk.export.bundle.model_card", ValueError("no license")),
        CHECK_FAILED, "no license", measured=True,
    ),
    "bill": Break(
        fails("genaf_sdk.export.bundle.can_write_bill", ImportError("cyclonedx")),
        CHECK_FAILED, "cyclonedx", measured=True,
    ),
    "server that cannot be copied": Break(
        fails("genaf_sdk.export.bundle._copy_server", OSError(errno.EACCES, "Permission denied")),
        USAGE_ERROR, "Permission denied", measured=True,
    ),
    "full disk at the ONNX file": Break(full("model.onnx"), USAGE_ERROR, "model.onnx", measured=True),
    "full disk at the checksums": Break(full("checksums.json"), USAGE_ERROR, "checksums.json", measured=True),
    "Ctrl-C in the export": Break(
        fails("genaf_sdk.export.to_onnx._traced", KeyboardInterrupt()), INTERRUPTED, "interrupted", measured=True
    ),
    "Ctrl-C while files are exchanged": Break(
        fails("genaf_sdk.export.staging._move", KeyboardInterrupt(), call=6), INTERRUPTED, "interrupted", measured=True
    ),
    "full disk at the last note": Break(full("finished.json"), USAGE_ERROR, "finished.json", measured=True),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_what_was_trained_and_measured_outlives_whatever_breaks(
    name: str, run: Runner, trained: dict[str, Tensor]
) -> None:
    broken = BREAKS[name]
    with run.monkeypatch.context() as patch:
        broken.inject(patch)
        assert run() == broken.code
    assert broken.named in run.said
    if broken.model:
        assert run.predicts_as(trained)
    assert not list(run.folder.rglob("*.partial")), "nothing half written is left"
    with run.monkeypatch.context() as patch:
        if broken.measured:
            patch.setattr("genaf_sdk.pipeline.run_evaluation", lambda *_, **__: pytest.fail("attacked again"))
        assert run(resume=True) == DONE
    assert run.steps == broken.left
    require_complete(run, trained)


def test_what_attacks_of_other_defaults_measured_is_measured_again(run: Runner) -> None:
    with run.monkeypatch.context() as patch:
        BREAKS["checker"].inject(patch)
        assert run() == CHECK_FAILED
    attacked = []
    with run.monkeypatch.context() as patch:
        patch.setattr("genaf_sdk.pipeline.stated_attacks", lambda _: {"pgd": {"steps": 99}})
        patch.setattr(
            "genaf_sdk.pipeline.run_evaluation", lambda *args, **kwargs: attacked.append(1) or evaluate(*args, **kwargs)
        )
        assert run(resume=True) == DONE
    assert attacked == [1]


def require_complete(run: Runner, trained: dict[str, Tensor]) -> None:
    """The bundle is that of an undisturbed run."""
    assert run.predicts_as(trained)
    check_whole(run.folder)
    report = RobustnessReport.load(run.folder)
    assert {score.attack for score in report.scores} == ROWS
    assert report.failures == []
    assert report.onnx is not None
    assert (run.folder / "report.html").is_file()


KILLED_AT = {
    "baseline": (STEP, 2, 5),
    "stage 1": (STEP, 4, 4),
    "stage 2": (STEP, 6, 2),
    "saving the model": ("genaf_sdk.export.staging._move", 1, 0),
    "an attack": ("genaf_sdk.attacks.pgd.PGD.run", 1, 0),
    "saving the report": ("genaf_sdk.report.robustness.html_report", 1, 0),
    "the export": ("genaf_sdk.export.to_onnx._traced", 1, 0),
    "exchanging files": ("genaf_sdk.export.staging._move", 8, 0),
}


@pytest.mark.parametrize("name", KILLED_AT)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_a_killed_run_leaves_what_it_had_trained(
    name: str, number: signal.Signals, run: Runner, trained: dict[str, Tensor]
) -> None:
    target, call, left = KILLED_AT[name]
    child = os.fork()
    if child == 0:
        with run.monkeypatch.context() as patch:
            original, count = _found(target), 0

            def deadly(*arguments: Any, **options: Any) -> Any:
                nonlocal count
                count += 1
                if count == call:
                    os.kill(os.getpid(), number)
                return original(*arguments, **options)

            patch.setattr(target, deadly)
            os._exit(run())
    _, status = os.waitpid(child, 0)
    if number == signal.SIGKILL:
        assert os.WIFSIGNALED(status)
    else:
        assert os.WEXITSTATUS(status) == STOPPED, "said in a line, and not 0"
    if name in ("an attack", "saving the report", "the export"):
        assert run.predicts_as(trained)
    assert run(resume=True) == DONE
    assert run.steps <= left + 2
    require_complete(run, trained)


class Foreign(EncoderAttack):
    """An attack of another package, with a fault."""

    name, source, fault = "foreign", "here", "raises"

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        values = torch.zeros_like(surrogate[0])
        if self.fault == "raises":
            raise LookupError("no weights")
        if self.fault == "NaN":
            values = values + torch.nan
        if self.fault == "too large":
            values = values + 0.5
        if self.fault == "another shape":
            values = values[:, :2]
        return Perturbation(values, self.threat)


@pytest.fixture
def foreign() -> Iterator[type[Foreign]]:
    ATTACKS.register(Foreign)
    yield Foreign
    del ATTACKS._items["foreign"]


@pytest.mark.parametrize(("fault", "words"), [("raises", "no weights"), ("NaN", "NaN"), ("another shape", "foreign")])
def test_an_attack_of_another_package_costs_its_row(
    fault: str, words: str, run: Runner, foreign: type[Foreign], trained: dict[str, Tensor]
) -> None:
    foreign.fault = fault
    assert run(CONFIG.with_(evaluation={"attacks": ("foreign", *CONFIG.evaluation.attacks)})) == CHECK_FAILED
    assert words in run.said
    report = RobustnessReport.load(run.folder)
    assert {failure.name for failure in report.failures} == {"foreign"}
    assert {score.attack for score in report.scores} == ROWS
    check_whole(run.folder)
    assert run(resume=True) == DONE
    assert run.steps == 0
    require_complete(run, trained)


def test_an_attack_that_exceeds_its_budget_is_held_to_it(run: Runner, foreign: type[Foreign]) -> None:
    foreign.fault = "too large"
    assert run(CONFIG.with_(evaluation={"attacks": ("foreign",)})) == DONE
    report = RobustnessReport.load(run.folder)
    found = [perturbation for name, perturbation in report.perturbations.items() if "foreign" in name]
    assert found
    assert all(float(perturbation.values.abs().max()) <= 10 / 255 + 1e-6 for perturbation in found)


def test_a_tracker_that_fails_costs_no_epoch(run: Runner, trained: dict[str, Tensor]) -> None:
    from genaf_sdk.engine.tracking import Metrics

    told: list[int] = []

    class Accelerated:
        trackers = ("one",)
        log_with = ()
        is_main_process = True

        def log(self, values: dict[str, float], step: int) -> None:
            told.append(step)
            raise ConnectionError("no network")

    original = Metrics.__init__

    def watched(self: Metrics, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)
        self.accelerator = Accelerated()  # type: ignore[assignment]

    run.monkeypatch.setattr(Metrics, "__init__", watched)
    assert run() == DONE
    assert len(told) == 4
    require_complete(run, trained)


def test_an_unreachable_hub_costs_the_upload_alone(run: Runner, trained: dict[str, Tensor]) -> None:
    assert run() == DONE
    run.monkeypatch.setattr("genaf_sdk.export.hub.HfApi.create_repo", _unreachable)
    with run.monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr("sys.argv", ["genaf"])
        assert main(["push", str(run.folder), "somebody/model"]) in (USAGE_ERROR, UNEXPECTED)
    require_complete(run, trained)


def _unreachable(*_: Any, **__: Any) -> None:
    raise HubError("The Hub cannot be reached.")
