"""What a run will take, from a few steps of it: memory, and the time of each of its parts."""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import torch

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.checks import attack_mode
from genaf_sdk.engine.activations import bytes_kept, recomputed, recomputed_activations
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.modules import draws_from_torch, synchronized_layers
from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import gradients_of
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.evaluation.certificates import classes_of
from genaf_sdk.evaluation.cost import FORWARD, Beside, ahead_passes, evaluation_passes, replay_passes
from genaf_sdk.evaluation.workers import MOST_PIXELS, Workers
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.preparation import frozen_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from accelerate import Accelerator
    from torch import Tensor, nn

    from genaf_sdk.data import DataSplits
    from genaf_sdk.data.sampling import Sample
    from genaf_sdk.engine.machine import MachineConfig
    from genaf_sdk.engine.stage import Stage
    from genaf_sdk.evaluation.settings import CertificateConfig, EvaluationConfig
    from genaf_sdk.hardened import HardenedModel
    from genaf_sdk.preparation import Candidate

STEPS, ENOUGH = 3, 0.5
"""How many steps are timed at least, of which the first warms up; fewer where they take longer than so many seconds."""
SHARE, MOST = 0.01, 2.0
"""What is to take long is timed for this share of it, up to so many seconds: whoever else computes here holds up single
steps by chance."""
MOMENTS = 4
"""Weights, gradients and Adam's two moments."""
MEASURED_ON = 2
"""Images on which a step's memory is measured; the rest follows by proportion."""
PASS = 64
"""Images whose way through the network and back is timed."""
DRAWN_ON = 7
"""Images on which it is seen whether a model draws random numbers: of no usual number of tokens a divisor."""
THREADS = 2
"""Of torch, with which both classifiers are trained side by side: of more, one thread each would leave some idle."""
SHORTER = {
    "stage 1": "the preset 'fast', fewer epochs (method.schedule.epochs) or smaller images",
    "baseline": "fewer epochs of it (baseline.epochs)",
    "stage 2": "no stage 2 (method.adaptability.epochs 0)",
    "attacks": "fewer attacks (evaluation.attacks), no curve (evaluation.curve) or fewer test_samples",
    "export": "fewer export.precisions",
}
"""Part of a run -> what makes it shorter."""


def duration(seconds: float) -> str:
    """Return a duration as people say it: ``70 s``, ``12 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def settled_machine(candidate: Candidate) -> MachineConfig:
    """Return the settings of the machine, with activations computed again as far as memory would not suffice else."""
    machine, accelerator = candidate.config.machine, candidate.accelerator
    if machine.checkpoint_activations != "auto" or accelerator.is_fsdp2:
        return machine
    processes = Processes.of(accelerator)

    def is_lacking(chosen: MachineConfig) -> bool:
        return memory_of_a_step(candidate, chosen) > free_memory(accelerator.device)

    with kept_random_state():
        for kind in ("auto", "light", "full"):
            chosen = machine.with_(checkpoint_activations=kind)
            if not processes.any(processes.together(partial(is_lacking, chosen))):  # all processes alike
                break
    return chosen


def memory_of_a_step(candidate: Candidate, machine: MachineConfig) -> int:
    """Return about how many bytes a training step takes: weights, gradients, moments, and what backward needs.

    The last is counted on two images and taken times the views of a step, as many as the method makes of these.
    """
    model, config = copy.deepcopy(candidate.model), candidate.config
    run = replace(_trial_run(candidate), machine=machine)
    stage = next(iter(config.method.stages(Lab(run, model, candidate.data, frozen_parameters(candidate.published)))))
    pixels, labels = candidate.data.train.sample(MEASURED_ON, seed=config.seed)
    device = candidate.published.mean.device
    batch = Batch.whole(pixels.to(device), labels.to(device))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    with low_rank(model, stage, config.tuning.lora_rank, config.seed) as adapted:
        trained = 0
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(adapted.trains(name))
            trained += parameter.nbytes if parameter.requires_grad else 0
        adapted.train_mode(model)
        if adapted.memory is not None:
            adapted.memory.begin(0.0)
        with _autocast(candidate.accelerator, device):
            views = len(adapted.views(model, batch))
            a_view = bytes_kept(model, batch.inputs, recomputed(run)) / MEASURED_ON
    images = len(candidate.data.train)
    rows = min(stage.schedule.batch(images), images) / candidate.accelerator.num_processes
    rows = min(rows, machine.micro_batch_size or rows)
    return int(weights + (MOMENTS - 1) * trained + rows * views * a_view)


def _autocast(accelerator: Accelerator, device: torch.device) -> AbstractContextManager[Any]:
    """Context: a pass on ``device`` keeps as many bytes as on the accelerator's, whose autocast is for that alone."""
    if device.type == accelerator.device.type:
        own: AbstractContextManager[Any] = accelerator.autocast()
        return own
    return torch.autocast(device.type, torch.bfloat16, enabled=accelerator.mixed_precision in ("bf16", "fp16"))


def free_memory(device: torch.device) -> int:
    """Return how many bytes a device has left; what torch keeps of freed tensors, as of timed steps, counts."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)
    return int(psutil.virtual_memory().available)


def pays_side_by_side(candidate: Candidate, machine: MachineConfig) -> bool:
    """Return whether both classifiers of a run train side by side, on one thread each: faster, and as harmless.

    One after the other remains what draws torch's own random numbers, which belong to the process, what other processes
    or devices take part in, and what memory does not suffice for.
    """
    config, data, device = candidate.config, candidate.data, candidate.accelerator.device
    alone = device.type == "cpu" and candidate.is_alone and torch.get_num_threads() == THREADS
    plain = config.tuning.lora_rank is None and config.method.schedule.augmentation == "none"
    small = data.image_shape[1] * data.image_shape[2] <= MOST_PIXELS
    if not (candidate.evaluate and alone and plain and small) or machine.checkpoint_activations in ("light", "full"):
        return False
    images, _ = data.train.sample(DRAWN_ON, seed=config.seed)
    enough = 2 * memory_of_a_step(candidate, machine) <= free_memory(device)
    return enough and not draws_from_torch(candidate.model, images)


def seconds_of_parts(candidate: Candidate) -> dict[str, float]:
    """Return about how many seconds each part of a run takes: the training of both models, attacks, export.

    Steps of stage 1 and of the baseline are timed as they will be. The others follow from the time that an image takes
    through the network and back, and from the number of such passes that the settings come to. Where both models train
    side by side, baseline and attacks are what is left of them once the training of the other model has ended.
    """
    config, data = candidate.config, candidate.data
    model = data.space.placed(copy.deepcopy(candidate.model).to(candidate.accelerator.device))
    lab = Lab(_trial_run(candidate), model, data, frozen_parameters(candidate.published))
    beside = pays_side_by_side(candidate, config.machine)
    with _threads(1 if beside else torch.get_num_threads()):
        parts = {"stage 1": seconds_of(candidate, copy.deepcopy(model), next(iter(config.method.stages(lab))))}
        if candidate.evaluate:
            baseline = lab.stage("undefended", config.standard_fine_tuning())
            parts["baseline"] = seconds_of(candidate, copy.deepcopy(model), baseline)
        later = config.method.later_passes(lab)
        a_pass = seconds_of_a_pass(model, data, later, config.machine.micro_batch_size)
    parts["stage 2"] = a_pass * later
    if candidate.evaluate:
        passes = evaluation_passes(config.evaluation, data)
        a_pass, workers = pass_of_an_attack(model, data, passes)
        whole, ahead = a_pass * passes, a_pass * ahead_passes(config.evaluation, data)
        parts["attacks"] = whole / workers
        if beside:
            parts |= left_of(parts["stage 1"] + parts["stage 2"], parts["baseline"], ahead, whole - ahead)
    if candidate.folder is not None:
        files = 1 + len(config.export.precisions) + config.export.uint8_input
        attacks = config.evaluation.attacks if candidate.evaluate else ()
        parts["export"] = a_pass * files * replay_passes(attacks, config.evaluation, data)
    return {part: seconds for part, seconds in parts.items() if seconds}


def left_of(training: float, baseline: float, ahead: float, rest: float) -> dict[str, float]:
    """Return the seconds of baseline and attacks that are left after the training that they run beside, on two threads.

    Args:
        training: Seconds of the hardened model's, on one thread, as are all others.
        baseline: Of the other model's.
        ahead: Of the attacks that need no hardened model, and follow at once.
        rest: Of the others, which wait for it.
    """
    late = max(0.0, baseline - training)
    return {"baseline": late, "attacks": (max(0.0, baseline - late + ahead - training) + rest) / 2}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Context: torch computes with ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, count))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seconds_of(candidate: Candidate, model: HardenedModel, stage: Stage) -> float:
    """Return about how many seconds a stage takes, from a few of its steps on ``model``, which they train."""
    run, durations = _trial_run(candidate), []
    with (
        low_rank(model, stage, candidate.config.tuning.lora_rank, run.seed) as adapted,
        gradients_of(model, adapted),
        recomputed_activations(model, recomputed(run)),
        synchronized_layers(model, run.processes, sync_batch_norm=run.machine.sync_batch_norm) as current,
    ):
        fitting = Fitting(run, FeaturesAndLogits(model), model, candidate.data, adapted)
        try:
            started = time.monotonic()
            for batch in fitting.batches():
                fitting.training_step(batch, current)
                _wait_for(candidate.accelerator.device)
                durations.append(time.monotonic() - started)
                if _timed_enough(durations, fitting.total):
                    break
                started = time.monotonic()
        finally:
            fitting.release()
    validation = FORWARD * len(candidate.data.validation) / len(candidate.data.train)
    return statistics.fmean(durations[1:] or durations) * fitting.total * (1 + validation)


def _wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given: it works on while this process goes on."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _timed_enough(durations: list[float], steps: float) -> bool:
    """Return whether what is to be done in so many ``steps`` has been timed well enough."""
    spent = sum(durations)
    told = spent / len(durations) * steps
    return (len(durations) >= STEPS or spent > ENOUGH) and spent > min(SHARE * told, MOST)


def seconds_of_evaluation(model: HardenedModel, data: DataSplits, config: EvaluationConfig, *, public: bool) -> float:
    """Return about how many seconds ``evaluate`` takes for one model; ``public``: with the transfer column."""
    passes = evaluation_passes(config, data, Beside(public=public, baseline=False))
    a_pass, workers = pass_of_an_attack(model, data, passes)
    return a_pass * passes / workers


def pass_of_an_attack(model: HardenedModel, data: DataSplits, passes: float) -> tuple[float, int]:
    """Return the seconds of a pass while attacks run side by side as they will, and how many of them do.

    Args:
        model: What is attacked.
        data: Whose images.
        passes: How many there will be.
    """
    workers = Workers.suited([model], data.image_shape[1] * data.image_shape[2]).count
    with _threads(torch.get_num_threads() // workers):
        return seconds_of_a_pass(model, data, passes), workers


def seconds_of_a_pass(model: nn.Module, data: DataSplits, passes: float, at_once: int | None = None) -> float:
    """Return how many seconds one image takes through the network and back to its pixels, as attacks send it.

    Args:
        model: The network.
        data: Whose images.
        passes: How many there will be.
        at_once: How many images cross the network at a time, as in micro-batches; None is ``PASS``.
    """
    pixels, _ = data.train.sample(PASS, seed=0)
    pixels = pixels.to(next(model.parameters()).device)
    durations: list[float] = []
    with attack_mode(model), folded_batch_norms(model, pixels):
        while not durations or not _timed_enough(durations, passes / len(pixels)):
            started = time.monotonic()
            for part in pixels.split(at_once or len(pixels)):
                images = part.clone().requires_grad_()
                float(gradient_of(model(images).square().sum(), images).sum())  # read, so that it has been computed
            durations.append(time.monotonic() - started)
    return statistics.fmean(durations[1:] or durations) / len(pixels)


def seconds_of_certificates(
    classifier: Callable[[Tensor], Tensor], sample: Sample, config: CertificateConfig, masks: int
) -> float:
    """Return about how many seconds ``certify`` takes at most: where no pair of masks changes an answer.

    Args:
        classifier: Pixels (N, C, H, W) to logits (N, K).
        sample: The images.
        config: How many of them are certified.
        masks: How many masks there are on an image.
    """
    passes = min(config.samples, len(sample)) * (1 + masks + masks * (masks + 1) // 2)
    pixels, _ = sample.first(PASS)
    durations: list[float] = []
    while not durations or not _timed_enough(durations, passes / len(pixels)):
        started = time.monotonic()
        classes_of(classifier, pixels)
        durations.append(time.monotonic() - started)
    return statistics.fmean(durations[1:] or durations) / len(pixels) * passes


def _trial_run(candidate: Candidate) -> Run:
    machine = candidate.config.machine.with_(non_finite="stop")  # a step that is skipped would be told
    return Run(candidate.accelerator, candidate.config.seed, show_progress=False, machine=machine)
