"""harden(): the whole pipeline, from a public encoder to a checked classifier."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk.engine.accelerator import joined, own_accelerator
from genaf_sdk.engine.checkpoints import open_checkpoints
from genaf_sdk.engine.cost import CostMeter, Spent
from genaf_sdk.engine.processes import peers_alive
from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.tracking import Metrics, require_trackers
from genaf_sdk.engine.train import train
from genaf_sdk.errors import ConfigError, ExportError, GenafError
from genaf_sdk.estimates import settled_machine
from genaf_sdk.evaluation.chosen import stated_attacks
from genaf_sdk.evaluation.evaluate import evaluate as run_evaluation
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.export.bundle import save_model, save_report
from genaf_sdk.export.layout import CHECKSUMS_FILE
from genaf_sdk.export.staging import require_free
from genaf_sdk.files import trial_folder
from genaf_sdk.locks import locked_folder
from genaf_sdk.memory import reused_memory
from genaf_sdk.methods.lab import Clock
from genaf_sdk.models.fingerprint import fingerprint
from genaf_sdk.models.storage import is_stored
from genaf_sdk.preflight import Finding, require_ready
from genaf_sdk.preflight import preflight as preflight_of
from genaf_sdk.preparation import (
    load_images,
    load_published,
    new_candidate,
    resolved,
    run_identity,
)
from genaf_sdk.report.robustness import REPORT_FILE, RobustnessReport
from genaf_sdk.result import HardenResult, describe
from genaf_sdk.training import trainings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from torch import Tensor, nn

    from genaf_sdk.config import HardenConfig
    from genaf_sdk.data import DataSplits
    from genaf_sdk.engine.tracking import LogWith
    from genaf_sdk.evaluation.ahead import Ahead
    from genaf_sdk.hardened import HardenedModel
    from genaf_sdk.methods import Method
    from genaf_sdk.models.encoder import PixelEncoder


logger = logging.getLogger(__name__)
SAVED, MEASURED = "saved", "measured"
"""Under these names a run notes that its model is written, and what its report was measured with."""


@reused_memory()
def harden(
    encoder: str | nn.Module,
    dataset: Any,
    config: HardenConfig | str | None = None,
    *,
    output_dir: str | Path | None = None,
    surrogate: Tensor | None = None,
    progress: bool | None = None,
    evaluate: bool = True,
    accelerator: Accelerator | None = None,
    method: str | Method | None = None,
    resume: bool = False,
    overwrite: bool = False,
    log_with: LogWith = None,
    preflight: bool = True,
) -> HardenResult:
    """Fine-tune a public encoder into a classifier that withstands downstream-agnostic adversarial examples.

    Gen-AF (Zhou et al., IEEE S&P 2024): dual-track adversarial fine-tuning with genetic regularization, then clean
    fine-tuning of the layers that robustness depends on least; then a check against attacks.

    Args:
        encoder: An id such as ``"torchvision:resnet18"``, or a module; see ``load_encoder``. It is left as it was.
        dataset: An id such as ``"digits"``, a folder of pictures, or torch datasets; see ``load_data``.
        config: Settings, or a preset: ``"default"``, ``"strict"``, ``"fast"``, ``"paper"`` or a baseline such as
            ``"trades"`` (``genaf compare --list`` describes them).
        output_dir: Where the model, its ONNX file, the report, ``metrics.jsonl`` and checkpoints go. It is tried before
            training starts; an error that comes before anything is written leaves no empty folder.
        surrogate: Images (N, C, H, W) in [0, 1] that the attacker of the report has; by default the downstream training
            images without labels.
        progress: True shows a bar on a terminal and lines elsewhere; None shows it on terminals and in notebooks.
        evaluate: Whether to train the undefended classifier and to attack both.
        accelerator: Your own ``accelerate.Accelerator``; by default one is made from ``config.machine``.
        method: A method, or the name of a preset or method whose losses, adversary and stages replace those of
            ``config``, while its schedule stays; without a ``config`` it is the preset itself.
        resume: Go on from the last checkpoint in ``output_dir`` of the run that was started with the same encoder, data
            and settings, or start from scratch if there is none.
        overwrite: Replace the checkpoints that an unfinished run left in ``output_dir``, instead of refusing to.
        log_with: Trackers of accelerate: ``"tensorboard"``, ``"wandb"``, several, or objects of your own. With an
            ``accelerator`` of your own, give them to that.
        preflight: Whether encoder, attacks, export, memory and time are tried first, as ``check`` does alone.

    Returns:
        The classifier, its report, and how it came about.

    Raises:
        GenafError: Something given cannot be used (``EncoderError``, ``DataError``, ``ConfigError``, ``OutputError``),
            or training had to stop (``TrainingError``; ``RunStoppedError`` after SIGTERM). With an ``output_dir``, what
            was done until then is kept for ``resume``.
    """
    config = resolved(config, method)
    if log_with is not None and accelerator is not None:
        raise ConfigError("Both log_with and accelerator are given.", remedy="give log_with to your Accelerator")
    peers = joined()
    with peers_alive(peers), ExitStack() as ending:

        def begin() -> tuple[Path | None, list[Any], PixelEncoder, DataSplits]:
            folder = None if output_dir is None else ending.enter_context(trial_folder(Path(output_dir)))
            if folder is not None:
                require_free(folder)
            trackers = require_trackers(log_with, folder)
            published = load_published(encoder, config.tuning)
            data = load_images(dataset, published, config, folder)
            return folder, trackers, data.space.placed(published), data

        folder, trackers, published, data = peers.together(begin)
        precision = config.machine.mixed_precision
        engines = own_accelerator(precision, trackers, folder) if accelerator is None else nullcontext(accelerator)
        with engines as engine, CostMeter() as cost, ExitStack() as held:
            peers.together(lambda: held.enter_context(_held(folder, engine)))
            writes = folder is not None and engine.is_main_process
            candidate = peers.together(
                lambda: new_candidate(published, data, config, engine, folder, evaluate=evaluate)
            )
            run = Run(engine, config.seed, show_progress=progress, machine=config.machine)
            run.termination.saves = folder is not None
            if preflight:
                with run.progress:
                    require_ready(candidate, run.announce("check"))
            run.machine = settled_machine(candidate)
            identity = run_identity(published, data, config)
            run.checkpoints = open_checkpoints(folder, identity, run.processes, resume=resume, overwrite=overwrite)
            run.metrics = Metrics(engine, folder)
            peers.together(lambda: run.metrics.start(config.to_dict()))
            clock = Clock()
            with run.termination.listening():
                attack = run.checkpoints.noted(MEASURED) is None
                both_trained = trainings(run, candidate, clock, surrogate, attack=attack)
                with run.progress, kept_random_state(), both_trained as both:
                    for stage in both.stages():
                        train(run, both.model, data, stage)
                    both.end()
                    _save_trained(run, both.model, folder if writes else None)
                    result = HardenResult(
                        both.model,
                        None,
                        published,
                        both.undefended,
                        data,
                        config,
                        both.lab.findings,
                        run.history,
                        clock.seconds,
                        run.range_tests,
                    )
                    if evaluate:
                        ahead, own = both.ahead, folder if writes else None
                        result.report = _measured(run, result, surrogate, own, clock, cost, ahead)
                for module in (result.model, result.undefended, published):  # attacks take the encoder to their device
                    if module is not None:
                        module.cpu().eval()
                if folder is not None and writes:
                    _save_bundle(result, folder)
                run.checkpoints.finish()
        return result


def check(
    encoder: str | nn.Module,
    dataset: Any,
    config: HardenConfig | str | None = None,
    *,
    output_dir: str | Path | None = None,
    accelerator: Accelerator | None = None,
    method: str | Method | None = None,
) -> list[Finding]:
    """Try everything that ``harden`` would need, in seconds, and train nothing.

    Args:
        encoder: As for ``harden``.
        dataset: As for ``harden``.
        config: As for ``harden``.
        output_dir: As for ``harden``; with it, an ONNX export is tried, too.
        accelerator: As for ``harden``.
        method: As for ``harden``.

    Returns:
        What was found, worst first: errors that ``harden`` would raise, warnings, and notes on memory and time.

    Raises:
        ConfigError: ``config`` or ``method`` cannot be used.
    """
    config = resolved(config, method)
    subject = "output folder"
    try:
        with nullcontext() if output_dir is None else trial_folder(Path(output_dir)) as folder:
            subject = "encoder"
            published = load_published(encoder, config.tuning)
            subject = "data"
            data = load_images(dataset, published, config, folder)
            subject = "encoder"  # which may refuse these images
            published = data.space.placed(published)
            precision = config.machine.mixed_precision
            engines = own_accelerator(precision) if accelerator is None else nullcontext(accelerator)
            with engines as engine:
                return preflight_of(new_candidate(published, data, config, engine, folder))
    except GenafError as error:
        return [Finding.of(subject, error)]


@contextmanager
def _held(folder: Path | None, accelerator: Accelerator) -> Iterator[None]:
    """Context: no other run writes into ``folder``; the first process asks for all."""
    with locked_folder(folder) if folder is not None and accelerator.is_main_process else nullcontext():
        yield


def _save_bundle(result: HardenResult, folder: Path) -> None:
    """Write everything; where an export fails, model and report, which names the failure, are there all the same.

    Raises:
        ExportError: An export failed, and there is no report to name it.
    """
    try:
        result.save(folder)
    except ExportError as error:
        if result.report is None:
            raise
        logger.error("%s Model and report are in %s; `genaf export` tries again.", error, folder)


def _save_trained(run: Run, model: HardenedModel, folder: Path | None) -> None:
    """Write the model, so that it is never lost to what comes after it; what this run wrote before stays as it is."""
    saved = run.checkpoints.noted(SAVED)

    def save() -> None:
        if folder is not None and not (saved and is_stored(model, folder)):
            save_model(model, folder)
            run.checkpoints.note(SAVED, True)

    run.processes.together(save)


def _measured(
    run: Run,
    result: HardenResult,
    surrogate: Tensor | None,
    folder: Path | None,
    clock: Clock,
    cost: CostMeter,
    ahead: Ahead | None = None,
) -> RobustnessReport:
    """Return the report, which is saved as soon as it is there; one that this run measured before is not made again.

    From here on no process waits for another: what the first one writes may take it longer than others wait.
    """
    noted, processes = run.checkpoints.noted(MEASURED), run.processes
    before = processes.together(lambda: _measured_before(noted, result, surrogate, folder))
    report = processes.broadcast(before)
    if report is None:
        kept = Kept(run.checkpoints.attacks, writes=processes.is_first)
        report = evaluate_result(run, result, surrogate, ahead, kept)
        clock.stop("evaluation", Spent(kept.seconds))
        report.complete(describe(result) | {"cost": cost.read(went_on=bool(run.earlier))})
        if folder is not None:
            if (folder / CHECKSUMS_FILE).exists():  # the whole bundle, whose report was measured otherwise
                save_model(result.model, folder)
            save_report(report, folder)
            run.checkpoints.note(MEASURED, _measurement(result, surrogate, report))
            if not any(failure.part == "attack" for failure in report.failures):  # which a resumed run tries again
                kept.clear()
    run.metrics.scores(run.history, report.to_dict()["scores"])
    return report


def _measured_before(
    noted: Any, result: HardenResult, surrogate: Tensor | None, folder: Path | None
) -> RobustnessReport | None:
    """Return the report of this run that was stopped after it was measured, if nothing was missing in it."""
    if folder is None or noted is None or not (folder / REPORT_FILE).is_file():
        return None
    report = RobustnessReport.load(folder)
    missing = any(failure.part == "attack" for failure in report.failures)
    if missing or noted != _measurement(result, surrogate, report):
        return None
    report.complete({"config": result.config.to_dict()})
    return report


def _measurement(result: HardenResult, surrogate: Tensor | None, report: RobustnessReport) -> dict[str, Any]:
    """Return, as JSON, what a report was measured with, and a hash of its rows."""
    rows = json.dumps(report.to_dict()["scores"])
    images = {} if surrogate is None else {"surrogate": surrogate}
    return {
        "evaluation": json.loads(json.dumps(result.config.evaluation.to_dict())),
        "attacks": stated_attacks(result.config.evaluation),
        "weights": fingerprint({**result.model.state_dict(), **images}),
        "rows": hashlib.sha256(rows.encode()).hexdigest(),
    }


def evaluate_result(
    run: Run, result: HardenResult, surrogate: Tensor | None, ahead: Ahead | None = None, kept: Kept | None = None
) -> RobustnessReport:
    """Attack the hardened and the undefended classifier, which ``ahead`` may have begun; ``kept`` has what was done."""
    return run_evaluation(
        result.model,
        result.data,
        encoder=result.published,
        baseline=result.undefended,
        surrogate=surrogate,
        config=result.config.evaluation,
        seed=result.config.seed,
        on_attack=ahead.on_attack if ahead is not None else run.announce("evaluation"),
        ahead=ahead,
        kept=kept,
    )
