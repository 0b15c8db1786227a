"""harden(): the whole pipeline, from a public encoder to a checked classifier."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk._version import __version__
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.checkpoints import fingerprint, open_checkpoints
from genaf_sdk.engine.cost import CostMeter
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.tracking import Metrics, require_trackers
from genaf_sdk.engine.train import train
from genaf_sdk.errors import ConfigError, DataError, EncoderError, ExportError, GenafError
from genaf_sdk.evaluation.evaluate import evaluate as run_evaluation
from genaf_sdk.export.bundle import save_model, save_report, write_bundle
from genaf_sdk.export.hub import push_bundle
from genaf_sdk.files import locked_folder, require_writable
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import Method, presets
from genaf_sdk.methods.lab import Clock, Lab
from genaf_sdk.models.classifier import describe_architecture
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import DEFAULT, build_head
from genaf_sdk.preflight import Candidate, Finding, require_ready
from genaf_sdk.preflight import preflight as preflight_of
from genaf_sdk.report.robustness import RobustnessReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator
    from torch import Tensor, nn

    from genaf_sdk.engine.tracking import LogWith
    from genaf_sdk.methods.adaptability import Adaptation


logger = logging.getLogger(__name__)
AFTER_TRAINING = ("evaluation", "export")
"""Groups of settings that no trained weight depends on: a run may be resumed with others."""


@dataclass
class HardenResult:
    """What ``harden`` returns.

    Args:
        model: The hardened classifier, in eval mode, on the CPU.
        report: What it withstands; None if ``evaluate=False`` was asked for.
        published: The encoder as it was before.
        undefended: The same encoder fine-tuned without defence ("before"), or None.
        data: The images that were used.
        config: The settings that were used.
        findings: What the method found on the way, by name.
        history: One record an epoch.
        seconds: Duration of each part.
    """

    model: HardenedModel
    report: RobustnessReport | None
    published: PixelEncoder
    undefended: HardenedModel | None
    data: DataSplits
    config: HardenConfig
    findings: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def sensitivity(self) -> dict[str, float]:
        """Layer -> rise of the adversarial loss: what each layer contributes to robustness; empty if not measured."""
        return dict(self.findings.get("sensitivity", {}))

    @property
    def adaptation(self) -> Adaptation | None:
        """What stage 2 trained and kept; None where there was none."""
        found: Adaptation | None = self.findings.get("adaptation")
        return found

    def save(self, folder: str | Path) -> Path:
        """Write the model, its ONNX file and the report with its perturbations into ``folder`` and return it.

        The ONNX file is compared with the model, and the perturbations are replayed through it with onnxruntime, so
        that the report's figures stand for the file that is served.

        Raises:
            ExportError: The ONNX file differs from the model.
            OutputError: The folder cannot be written.
        """
        return write_bundle(self.model, require_writable(Path(folder)), self)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Publish the whole bundle on the Hugging Face Hub in one commit and return its URL.

        Args:
            repo_id: ``ORG/NAME``; made if it does not exist.
            **options: ``private``, ``revision``, ``create_pr``, ``token`` and the others of
                ``genaf_sdk.export.hub.push_bundle``.

        Raises:
            HubError: The Hub refuses; the error says why.
        """
        with tempfile.TemporaryDirectory() as folder:
            return push_bundle(self.save(folder), repo_id, **options)


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
        config: Settings, or the name of a preset: ``"default"``, ``"fast"``, ``"paper"`` or a baseline such as
            ``"trades"`` (``genaf compare --list`` describes them).
        output_dir: Where the model, its ONNX file, the report, ``metrics.jsonl`` and checkpoints go. It is tried before
            training starts.
        surrogate: Images (N, C, H, W) in [0, 1] that the attacker of the report has; by default the downstream training
            images without labels.
        progress: True shows a bar on a terminal and lines elsewhere; None shows it on terminals and in notebooks.
        evaluate: Whether to train the undefended classifier and to attack both.
        accelerator: Your own ``accelerate.Accelerator``; by default one is made from ``config.machine``.
        method: A method, or the name of a preset or method whose losses, adversary and stages replace those of
            ``config``, while its schedule stays; without a ``config`` it is the preset itself.
        resume: Go on from the last checkpoint in ``output_dir`` of the run that was started with the same encoder, data
            and settings; where there is none, start.
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
    folder = None if output_dir is None else require_writable(Path(output_dir))
    if log_with is not None and accelerator is not None:
        raise ConfigError("Both log_with and accelerator are given.", remedy="give log_with to your Accelerator")
    trackers = require_trackers(log_with, folder)
    published = load_published(encoder)
    data = load_images(dataset, published, config)
    published = data.space.placed(published)
    frozen = frozen_parameters(published)
    precision = config.machine.mixed_precision
    engines = own_accelerator(precision, trackers, folder) if accelerator is None else nullcontext(accelerator)
    with engines as engine, CostMeter() as cost, _held(folder, engine):
        writes = folder is not None and engine.is_main_process
        run = Run(engine, config.seed, show_progress=progress, machine=config.machine)
        if preflight:
            with run.progress:
                require_ready(new_candidate(published, data, config, engine, folder, evaluate), run.announce("before"))
        identity = run_identity(published, data, config)
        run.checkpoints = open_checkpoints(folder, identity, run.processes, resume=resume, overwrite=overwrite)
        run.metrics = Metrics(engine, folder)
        run.metrics.start(config.to_dict())
        clock, undefended = Clock(), None
        with run.termination.listening():
            with run.progress, torch.random.fork_rng():
                if evaluate:
                    undefended = new_classifier(published, data, config.seed)
                    lab = Lab(run, undefended, data, frozen, clock=clock)
                    train(run, undefended, data, lab.stage("undefended", config.standard_fine_tuning()))
                    clock.stop("undefended")
                model = new_classifier(published, data, config.seed)
                lab = Lab(run, model, data, frozen, clock=clock)
                for stage in config.method.stages(lab):
                    train(run, model, data, stage)
                    clock.stop(stage.name)
            if folder is not None and writes:  # what was trained is never lost to what comes after it
                save_model(model, folder)
            result = HardenResult(
                model, None, published, undefended, data, config, lab.findings, run.history, clock.seconds
            )
            if evaluate:
                result.report = evaluate_result(run, result, surrogate)
                clock.stop("evaluation")
                result.report.complete(describe(result) | {"cost": cost.read()})
                run.metrics.scores(run.history, result.report.to_dict()["scores"])
                if folder is not None and writes:
                    save_report(result.report, folder)
            for module in (result.model, result.undefended):
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
    try:
        folder = None if output_dir is None else require_writable(Path(output_dir))
        published = load_published(encoder)
        data = load_images(dataset, published, config)
        published = data.space.placed(published)
        precision = config.machine.mixed_precision
        engines = own_accelerator(precision) if accelerator is None else nullcontext(accelerator)
        with engines as engine:
            return preflight_of(new_candidate(published, data, config, engine, folder, evaluate=True))
    except GenafError as error:
        return [Finding.of({EncoderError: "encoder", DataError: "data"}.get(type(error), "output folder"), error)]


def load_published(encoder: str | nn.Module) -> PixelEncoder:
    """Return a copy of the encoder, in eval mode."""
    return copy.deepcopy(load_encoder(encoder)).eval()


def load_images(dataset: Any, published: PixelEncoder, config: HardenConfig) -> DataSplits:
    """Return the images as the encoder takes them."""
    return load_data(
        dataset,
        image_size=published.image_size,
        channels=published.channels,
        interpolation=published.interpolation,
        seed=config.seed,
        **config.loading.to_dict(),
    )


def new_candidate(
    published: PixelEncoder,
    data: DataSplits,
    config: HardenConfig,
    accelerator: Accelerator,
    folder: Path | None,
    evaluate: bool,
) -> Candidate:
    """Return the run that is to be tried before it begins."""
    with torch.random.fork_rng():
        model = new_classifier(published, data, config.seed)
    return Candidate(published, model, data, config, accelerator, folder, evaluate)


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


def run_identity(published: PixelEncoder, data: DataSplits, config: HardenConfig) -> dict[str, Any]:
    """Return what a resumed run must share with the one that was started, as JSON: all that training depends on."""
    identity: dict[str, Any] = json.loads(
        json.dumps(
            {
                "genaf_sdk": __version__,
                "encoder": fingerprint(published.state_dict()),
                "data": data.describe()["fingerprint"],
                "config": {key: value for key, value in config.to_dict().items() if key not in AFTER_TRAINING},
            }
        )
    )
    return identity


def evaluate_result(run: Run, result: HardenResult, surrogate: Tensor | None) -> RobustnessReport:
    """Attack the hardened and the undefended classifier."""
    with run.progress, torch.random.fork_rng():
        return run_evaluation(
            result.model,
            result.data,
            encoder=result.published,
            baseline=result.undefended,
            surrogate=surrogate,
            config=result.config.evaluation,
            seed=result.config.seed,
            on_attack=run.announce("evaluation"),
        )


def new_classifier(published: PixelEncoder, data: DataSplits, seed: int, *, head_name: str = DEFAULT) -> HardenedModel:
    """Put a fresh head, drawn by ``seed``, on a copy of the encoder."""
    feature_dim = published.feature_dim(data.image_shape[1:])
    torch.manual_seed(seed)
    head = build_head(head_name, feature_dim, len(data.class_names))
    return HardenedModel(copy.deepcopy(published), head, class_names=data.class_names, image_size=data.image_shape[1:])


def frozen_parameters(published: PixelEncoder) -> frozenset[str]:
    """Return the names, in a classifier, of the encoder's parameters that its user froze.

    Raises:
        EncoderError: All of them are.
    """
    parameters = {f"encoder.{name}": parameter.requires_grad for name, parameter in published.named_parameters()}
    frozen = frozenset(name for name, required in parameters.items() if not required)
    if parameters and len(frozen) == len(parameters):
        raise EncoderError(
            "All parameters of the encoder are frozen.",
            expected="parameters with requires_grad=True: frozen ones stay as they are",
            remedy="call encoder.requires_grad_(True), or use the preset 'linear-probe'",
        )
    return frozen


def describe(result: HardenResult) -> dict[str, Any]:
    """Return what the report says beside its scores: model, settings, both stages, cost."""
    adaptation = result.adaptation
    return {
        "model": describe_architecture(result.model),
        "config": result.config.to_dict(),
        "sensitivity": result.sensitivity,
        "adaptation": None if adaptation is None else adaptation.to_dict(),
        "history": result.history,
        "seconds": result.seconds,
    }


def resolved(config: HardenConfig | str | None, method: str | Method | None) -> HardenConfig:
    """Return the settings that ``harden`` was asked for.

    Raises:
        ConfigError: There is no such preset or method, or ``config`` is something else.
    """
    if config is None and isinstance(method, str) and method in presets():
        return HardenConfig.preset(method)
    if config is None or isinstance(config, str):
        config = HardenConfig.preset(config or "default")
    if not isinstance(config, HardenConfig):
        raise ConfigError(f"config is a {type(config).__name__}.", expected="a HardenConfig or the name of a preset")
    if method is None:
        return config
    chosen = Method.from_value(method, "method")
    return config.with_(method=chosen.with_(schedule=config.method.schedule) if isinstance(method, str) else chosen)
