"""harden(): the whole pipeline, from a public encoder to a checked classifier."""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genaf_sdk._version import __version__
from genaf_sdk.config import AdversaryConfig, HardenConfig
from genaf_sdk.data import load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.checkpoints import Checkpoints, fingerprint, open_checkpoints
from genaf_sdk.engine.cost import CostMeter
from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.stage import Run
from genaf_sdk.engine.tracking import Metrics, require_trackers
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.evaluate import evaluate as run_evaluation
from genaf_sdk.files import require_writable
from genaf_sdk.methods.adaptability import Adaptation, adaptability_finetuning
from genaf_sdk.methods.adversary import ascend
from genaf_sdk.methods.gen_af import dual_track_finetuning
from genaf_sdk.methods.sensitivity import redundant_layers, robust_sensitivity
from genaf_sdk.models.classifier import HardenedModel, architecture_of
from genaf_sdk.models.heads import Head
from genaf_sdk.presets import with_method

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from genaf_sdk.data import DataSplits
    from genaf_sdk.engine.tracking import LogWith
    from genaf_sdk.models.encoder import PixelEncoder
    from genaf_sdk.report.robustness import RobustnessReport


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
        sensitivity: Layer -> rise of the adversarial loss: what each layer contributes to robustness.
        adaptation: What stage 2 trained and kept.
        history: One record an epoch.
        seconds: Duration of each part.
    """

    model: HardenedModel
    report: RobustnessReport | None
    published: PixelEncoder
    undefended: HardenedModel | None
    data: DataSplits
    config: HardenConfig
    sensitivity: dict[str, float] = field(default_factory=dict)
    adaptation: Adaptation | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Write the model, its ONNX file and the report with its perturbations into ``folder`` and return it.

        The ONNX file is compared with the model, and the perturbations are replayed through it with onnxruntime, so
        that the report's figures stand for the file that is served.

        Raises:
            ExportError: The ONNX file differs from the model.
            OutputError: The folder cannot be written.
        """
        from genaf_sdk.export.bundle import write_bundle

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
        from genaf_sdk.export.hub import push_bundle

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
    method: str | None = None,
    resume: bool = False,
    log_with: LogWith = None,
) -> HardenResult:
    """Fine-tune a public encoder into a classifier that withstands downstream-agnostic adversarial examples.

    Gen-AF (Zhou et al., IEEE S&P 2024): dual-track adversarial fine-tuning with genetic regularization, then clean
    fine-tuning of the layers that robustness depends on least; then a check against attacks.

    Args:
        encoder: An id such as ``"torchvision:resnet18"``, or a module; see ``load_encoder``. It is left as it was.
        dataset: An id such as ``"digits"``, a folder of pictures, or torch datasets; see ``load_data``.
        config: Settings, or the name of a preset: ``"default"``, ``"fast"``, ``"paper"`` or a baseline such as
            ``"trades"`` (see ``presets.py``).
        output_dir: Where the model, its ONNX file, the report, ``metrics.jsonl`` and checkpoints go. It is tried before
            training starts.
        surrogate: Images (N, C, H, W) in [0, 1] that the attacker of the report has; by default the downstream training
            images without labels.
        progress: True shows a bar on a terminal and lines elsewhere; None shows it on terminals and in notebooks.
        evaluate: Whether to train the undefended classifier and to attack both.
        accelerator: Your own ``accelerate.Accelerator``; by default one is made from ``config.mixed_precision``.
        method: Name of a preset whose losses, adversary and stages replace those of ``config``, while epochs, steps
            and batch sizes stay; without a ``config`` it is the preset itself.
        resume: Go on from the last checkpoint in ``output_dir`` of the run that was started with the same encoder, data
            and settings; where there is none, start.
        log_with: Trackers of accelerate: ``"tensorboard"``, ``"wandb"``, several, or objects of your own. With an
            ``accelerator`` of your own, give them to that.

    Returns:
        The classifier, its report, and how it came about.

    Raises:
        GenafError: Something given cannot be used (``EncoderError``, ``DataError``, ``ConfigError``, ``OutputError``),
            or training had to stop (``TrainingError``; ``RunStoppedError`` after SIGTERM). With an ``output_dir``, what
            was done until then is kept for ``resume``.
    """
    config = _resolve(config, method)
    folder = None if output_dir is None else require_writable(Path(output_dir))
    if log_with is not None and accelerator is not None:
        raise ConfigError("Both log_with and accelerator are given.", remedy="give log_with to your Accelerator")
    trackers = require_trackers(log_with, folder)
    published = copy.deepcopy(load_encoder(encoder)).eval().to(memory_format=torch.channels_last)
    data = load_data(
        dataset,
        image_size=published.image_size,
        channels=published.channels,
        interpolation=published.interpolation,
        validation_fraction=config.validation_fraction,
        seed=config.seed,
        **dataclasses.asdict(config.loading),
    )
    feature_dim = published.measure(data.image_shape[1:])
    engines = own_accelerator(config, trackers, folder) if accelerator is None else nullcontext(accelerator)
    with engines as engine, CostMeter() as cost:
        identity = run_identity(published, data, config)
        checkpoints = open_checkpoints(folder, identity, Processes.of(engine), resume=resume)
        run = new_run(engine, config, checkpoints, progress)
        run.metrics = Metrics(engine, folder)
        run.metrics.start(config.to_dict())
        with run.termination.listening():
            result = _fine_tune(run, published, feature_dim, data, config, with_undefended=evaluate)
            if evaluate:
                started = time.monotonic()
                result.report = evaluate_result(run, result, surrogate)
                result.seconds["evaluation"] = round(time.monotonic() - started, 3)
                result.report.sections |= describe(result) | {"cost": cost.read()}
                run.metrics.scores(run.history, result.report)
            for module in (result.model, result.undefended):
                if module is not None:
                    module.cpu().eval()
            if folder is not None and engine.is_main_process:
                result.save(folder)
    return result


def new_run(
    accelerator: Accelerator, config: HardenConfig, checkpoints: Checkpoints, progress: bool | None = None
) -> Run:
    """Return a run with the settings of ``config``."""
    return Run(
        accelerator,
        config.seed,
        checkpoints,
        progress,
        sync_batch_norm=config.sync_batch_norm,
        micro_batch_size=config.micro_batch_size,
        non_finite=config.non_finite,
    )


def run_identity(published: PixelEncoder, data: DataSplits, config: HardenConfig) -> dict[str, Any]:
    """Return what a resumed run must share with the one that was started, as JSON."""
    identity: dict[str, Any] = json.loads(
        json.dumps(
            {
                "genaf_sdk": __version__,
                "encoder": fingerprint(published.state_dict()),
                "data": data.describe()["fingerprint"],
                "config": config.to_dict(),
            }
        )
    )
    return identity


def _fine_tune(
    run: Run,
    published: PixelEncoder,
    feature_dim: int,
    data: DataSplits,
    config: HardenConfig,
    *,
    with_undefended: bool,
) -> HardenResult:
    """Train the undefended classifier, if wanted, then the hardened one in both stages."""
    clock, undefended = _Clock(), None
    with run.progress, torch.random.fork_rng():
        if with_undefended:
            undefended = new_classifier(published, feature_dim, data, config.seed)
            dual_track_finetuning(run, undefended, data, undefended_config(config), stage="undefended")
            clock.stop("undefended")
        model = new_classifier(published, feature_dim, data, config.seed)
        adversary = dual_track_finetuning(run, model, data, config.dual_track)
        clock.stop("stage 1")

        contributions, adaptation = {}, None
        if config.adaptability.epochs:
            device = run.accelerator.device
            pixels, labels = (t.to(device) for t in data.train.head(config.sensitivity.samples, seed=config.seed))
            budget = config.evaluation.sample_wise_budget
            fraction, announce = config.adaptability.redundant_fraction, run.announce("sensitivity")
            with run.accelerator.autocast():
                adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), budget, budget / 4, steps=10)
                contributions = run.checkpoints.remember(
                    "sensitivity",
                    lambda: robust_sensitivity(
                        model, adversarial, labels, config.sensitivity, redundant_fraction=fraction, on_layer=announce
                    ),
                )
            clock.stop("sensitivity")
            layers = redundant_layers(contributions, fraction)
            bank = adversary.state().get("perturbations") if adversary else None
            adaptation = adaptability_finetuning(run, model, data, config, layers, bank)
            clock.stop("stage 2")
    return HardenResult(
        model, None, published, undefended, data, config, contributions, adaptation, run.history, clock.seconds
    )


def evaluate_result(run: Run, result: HardenResult, surrogate: Tensor | None) -> RobustnessReport:
    """Attack the hardened and the undefended classifier."""
    with run.progress, torch.random.fork_rng():
        return run_evaluation(
            result.model,
            result.data,
            encoder=result.published,
            undefended=result.undefended,
            surrogate=surrogate,
            config=result.config.evaluation,
            seed=result.config.seed,
            on_attack=run.announce("evaluation"),
        )


def new_classifier(published: PixelEncoder, feature_dim: int, data: DataSplits, seed: int) -> HardenedModel:
    """Put a fresh head, drawn by ``seed``, on a copy of the encoder."""
    torch.manual_seed(seed)
    head = Head(feature_dim, len(data.class_names))
    return HardenedModel(copy.deepcopy(published), head, class_names=data.class_names, image_size=data.image_shape[1:])


def undefended_config(config: HardenConfig) -> Any:
    """Return stage 1's settings without its adversary: ordinary fine-tuning, the "before" of the report."""
    return dataclasses.replace(
        config.dual_track,
        epochs=config.undefended_epochs,
        encoder_learning_rate=config.undefended_encoder_learning_rate,
        freeze_encoder=False,
        adversary=AdversaryConfig(kind="none"),
    )


def describe(result: HardenResult) -> dict[str, Any]:
    """Return what the report says beside its scores: model, settings, both stages, cost."""
    adaptation = result.adaptation
    return {
        "model": architecture_of(result.model),
        "config": result.config.to_dict(),
        "sensitivity": result.sensitivity,
        "adaptation": None if adaptation is None else dataclasses.asdict(adaptation),
        "history": result.history,
        "seconds": result.seconds,
    }


def _resolve(config: HardenConfig | str | None, method: str | None) -> HardenConfig:
    if config is None and method is not None:
        return HardenConfig.preset(method)
    if config is None or isinstance(config, str):
        config = HardenConfig.preset(config or "default")
    if not isinstance(config, HardenConfig):
        raise ConfigError(f"config is a {type(config).__name__}.", expected="a HardenConfig or the name of a preset")
    return config if method is None else with_method(config, method)


class _Clock:
    """Durations of consecutive parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started = time.monotonic()

    def stop(self, part: str) -> None:
        now = time.monotonic()
        self.seconds[part], self.started = round(now - self.started, 3), now
