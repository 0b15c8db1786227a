"""What can be known before training begins: everything is tried in seconds that hours would else be spent on."""

from __future__ import annotations

import copy
import logging
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import torch
from accelerate import Accelerator

from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits
from genaf_sdk.engine.activations import bytes_kept, recomputed, recomputed_activations
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import gradients_of
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.errors import EncoderError, GenafError
from genaf_sdk.export.parity import check_parity
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.soundness import require_sound
from genaf_sdk.preparation import frozen_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from genaf_sdk.engine.machine import MachineConfig
    from genaf_sdk.engine.stage import Stage

logger = logging.getLogger(__name__)
STEPS = 3
"""How many steps are timed; the first one warms up."""
MOMENTS = 4
"""Weights, gradients and Adam's two moments."""
CHECKPOINTS = 3
"""A run keeps two checkpoints and writes a third; each holds weights and moments."""
MEASURED_ON = 2
"""Images on which a step's memory is measured; the rest follows by proportion."""


@dataclass(frozen=True)
class Finding:
    """Something that was found before training.

    Args:
        level: ``error``: the run would fail, or its result would be wrong. ``warning``: it may surprise. ``note``: good
            to know.
        subject: What was looked at.
        text: What was found, and why it matters.
        remedy: What to do about it.
        error: The exception that a run raises for it; None for anything but an error.
    """

    level: Literal["error", "warning", "note"]
    subject: str
    text: str
    remedy: str = ""
    error: GenafError | None = field(default=None, compare=False)

    @classmethod
    def of(cls, subject: str, error: GenafError) -> Finding:
        """Return the finding that an exception of the package stands for."""
        expected = f" Expected: {error.expected}." if error.expected else ""
        return cls("error", subject, f"{error.problem}{expected}", error.remedy, error)


@dataclass(frozen=True)
class Candidate:
    """A run that has not begun.

    Args:
        published: The encoder.
        model: A classifier on a copy of it, untrained.
        data: The images.
        config: The settings.
        accelerator: What it would run on.
        folder: Its output folder, or None.
        evaluate: Whether the model is to be attacked.
    """

    published: PixelEncoder
    model: HardenedModel
    data: DataSplits
    config: HardenConfig
    accelerator: Accelerator
    folder: Path | None
    evaluate: bool = True

    @property
    def is_alone(self) -> bool:
        """Whether there is one process: several would have to try in step with one another."""
        return bool(self.accelerator.num_processes == 1)


def preflight(candidate: Candidate, announce: Callable[[str], object] = str) -> list[Finding]:
    """Try encoder, attacks, export, output folder, memory and time of a run; nothing of it is left behind.

    Args:
        candidate: The run.
        announce: Called with the name of what is looked at.

    Returns:
        What was found, worst first.
    """
    findings: list[Finding] = []
    with torch.random.fork_rng():
        for subject, check in CHECKS.items():
            announce(subject)
            try:
                findings += check(candidate)
            except GenafError as error:
                findings.append(Finding.of(subject, error))
            if subject == "encoder" and any(finding.level == "error" for finding in findings):
                break  # whatever else is tried fails for the same reason
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def require_ready(candidate: Candidate, announce: Callable[[str], object]) -> None:
    """Try a run as ``preflight`` does; tell what is good to know, warn of what may surprise.

    Raises:
        GenafError: The run would fail, or its result would be wrong.
    """
    for finding in preflight(candidate, announce):
        if finding.error is not None:
            raise finding.error
        if finding.level == "note":
            announce(finding.text)
        elif candidate.accelerator.is_main_process:
            logger.warning("%s: %s To do: %s.", finding.subject, finding.text, finding.remedy)


def _encoder(candidate: Candidate) -> Iterator[Finding]:
    published, model = candidate.published, candidate.model
    require_sound(published, candidate.data.image_shape[1:])
    try:
        copied = copy.deepcopy(model)
        copied.load_state_dict(model.state_dict())
    except (TypeError, RuntimeError, KeyError) as error:
        raise EncoderError(
            f"The encoder's weights cannot be copied and loaded again: {error}.",
            expected="a module whose state_dict holds all of its weights and buffers",
        ) from error
    frozen = [name for name, parameter in published.named_parameters() if not parameter.requires_grad]
    if frozen:
        yield Finding(
            "warning",
            "encoder",
            f"{len(frozen)} of its parameters are frozen and stay as they are, such as {frozen[0]!r}: what an attacker "
            "knows of them stays true.",
            "train more of it (tuning.train_last), or call encoder.requires_grad_(True), if that is not wanted",
        )


def _attacks(candidate: Candidate) -> Iterator[Finding]:
    if candidate.evaluate:
        config = candidate.config
        require_attacks(config.evaluation.attacks, candidate.published, candidate.data, config.seed)
    yield from ()


def require_attacks(attacks: Sequence[str], published: PixelEncoder, data: DataSplits, seed: int = 0) -> None:
    """Refuse attacks that could not run.

    Args:
        attacks: As in ``EvaluationConfig``.
        published: The encoder; its layers are the model's.
        data: Tells the size of an image and the number of classes.
        seed: Of the order of the images.

    Raises:
        AttackError: A name or setting is unknown, or a package, a layer or a class is missing.
    """
    pixels, _ = data.train.head(2, seed=seed)
    for text in attacks:
        load_attack(text).require(published, pixels.to(published.mean.device), len(data.class_names))


def _export(candidate: Candidate) -> Iterator[Finding]:
    """Export the untrained model, and compare it on images that a camera could send: random, black and white ones."""
    if candidate.folder is None or not candidate.is_alone:
        return
    data, model = candidate.data, copy.deepcopy(candidate.model).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, *data.image_shape, generator=generator)
    images[1], images[2] = 0.0, 1.0
    with tempfile.TemporaryDirectory() as folder:
        check_parity(model, export_onnx(model, Path(folder) / "model.onnx"), images)
    yield from ()


def _output_folder(candidate: Candidate) -> Iterator[Finding]:
    if candidate.folder is None:
        return
    size = sum(value.numel() * value.element_size() for value in candidate.model.state_dict().values())
    needed = size * (CHECKPOINTS * (MOMENTS - 1) + 4)  # and the bundle: weights, and the ONNX file in three precisions
    free = shutil.disk_usage(candidate.folder).free
    if needed > free:
        yield Finding(
            "warning",
            "output folder",
            f"Checkpoints and the bundle take about {_bytes(needed)}; {candidate.folder} has {_bytes(free)} left.",
            "free some, or choose another output_dir",
        )


def _memory(candidate: Candidate) -> Iterator[Finding]:
    settled = settled_machine(candidate)
    needed, free = memory_of_a_step(candidate, settled), _free_memory(candidate.accelerator.device)
    again = " with activations that are computed again," if settled is not candidate.config.machine else ""
    text = f"A training step takes,{again} about {_bytes(needed)} of {_bytes(free)} that are free."
    if needed > free:
        remedy = "set machine.micro_batch_size, tuning.train_last or tuning.lora_rank, or lower the batch or image size"
        yield Finding("warning", "memory", text, remedy)
    else:
        yield Finding("note", "memory", text.replace("takes, about", "takes about"))


def settled_machine(candidate: Candidate) -> MachineConfig:
    """Return the settings of the machine, with all activations computed again if memory would not suffice otherwise."""
    machine, accelerator = candidate.config.machine, candidate.accelerator
    if machine.checkpoint_activations != "auto" or accelerator.is_fsdp2:
        return machine
    lacking = memory_of_a_step(candidate, machine) > _free_memory(accelerator.device)
    full = Processes.of(accelerator).any(lacking)  # all processes alike
    return machine.with_(checkpoint_activations="full") if full else machine


def memory_of_a_step(candidate: Candidate, machine: MachineConfig) -> int:
    """Return about how many bytes a training step takes: weights, gradients, moments, and what backward needs.

    The last is counted on two images and taken times the images of a step.
    """
    model, config = copy.deepcopy(candidate.model).train(), candidate.config
    run = replace(_trial_run(candidate), machine=machine)
    stage = next(iter(config.method.stages(Lab(run, model, candidate.data, frozen_parameters(candidate.published)))))
    pixels, _ = candidate.data.train.head(MEASURED_ON, seed=config.seed)
    pixels = pixels.to(candidate.published.mean.device)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    with low_rank(model, stage, config.tuning.lora_rank, config.seed) as adapted:
        trained = 0
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(adapted.trains(name))
            trained += parameter.nbytes if parameter.requires_grad else 0
        with candidate.accelerator.autocast():
            an_image = bytes_kept(model, pixels, recomputed(run, stage)) / MEASURED_ON
    images = len(candidate.data.train)
    rows = min(stage.schedule.batch(images), images) / candidate.accelerator.num_processes
    rows = min(rows, machine.micro_batch_size or rows)
    views = 1 if stage.memory is None else 2
    return int(weights + (MOMENTS - 1) * trained + rows * views * an_image)


def _time(candidate: Candidate) -> Iterator[Finding]:
    if not candidate.is_alone:
        return
    model = candidate.data.space.placed(copy.deepcopy(candidate.model).to(candidate.accelerator.device))
    lab = Lab(_trial_run(candidate), model, candidate.data, frozen_parameters(candidate.published))
    stages = {"stage 1": next(iter(candidate.config.method.stages(lab)))}
    if candidate.evaluate:
        stages["the baseline"] = lab.stage("undefended", candidate.config.standard_fine_tuning())
    parts = []
    for name, stage in stages.items():
        parts.append(f"{name} about {_duration(seconds_of(candidate, copy.deepcopy(model), stage))}")
    rest = "what follows stage 1" + (" and the attacks of the report come" if candidate.evaluate else " comes")
    yield Finding(
        "note",
        "time",
        f"Here, {' and '.join(parts)}; {rest} on top.",
        "the preset 'fast', fewer epochs or smaller images take less",
    )


def seconds_of(candidate: Candidate, model: HardenedModel, stage: Stage) -> float:
    """Return about how many seconds a stage takes, from a few of its steps on ``model``, which they train."""
    run, durations = _trial_run(candidate), []
    with (
        low_rank(model, stage, candidate.config.tuning.lora_rank, run.seed) as adapted,
        gradients_of(model, adapted),
        recomputed_activations(model, recomputed(run, adapted)),
        synchronized_layers(model, run.processes, sync_batch_norm=run.machine.sync_batch_norm) as current,
    ):
        fitting = Fitting(run, FeaturesAndLogits(model), model, candidate.data, adapted)
        try:
            started = time.monotonic()
            for batch in islice(fitting.batches(), STEPS):
                fitting.training_step(batch, current)
                durations.append(time.monotonic() - started)
                started = time.monotonic()
        finally:
            fitting.release()
    return statistics.median(durations[1:] or durations) * fitting.total


def _trial_run(candidate: Candidate) -> Run:
    machine = candidate.config.machine.with_(non_finite="stop")  # a step that is skipped would be told
    return Run(candidate.accelerator, candidate.config.seed, show_progress=False, machine=machine)


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


CHECKS: dict[str, Callable[[Candidate], Iterator[Finding]]] = {
    "encoder": _encoder,
    "attacks": _attacks,
    "export": _export,
    "output folder": _output_folder,
    "memory": _memory,
    "time": _time,
}
"""What is looked at, in this order."""
