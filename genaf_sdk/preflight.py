"""What can be known before training begins: everything is tried in seconds that hours would else be spent on."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.engine.processes import Processes
from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.errors import AttackError, EncoderError, GenafError, OutputError
from genaf_sdk.estimates import (
    MOMENTS,
    SHORTER,
    duration,
    free_memory,
    memory_of_a_step,
    seconds_of_parts,
    settled_machine,
)
from genaf_sdk.export.parity import BATCH_SIZES, check_parity, relative_difference
from genaf_sdk.export.staging import foreign_files
from genaf_sdk.export.to_onnx import export_onnx
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.models.soundness import require_sound
from genaf_sdk.models.storage import save_classifier
from genaf_sdk.preparation import frozen_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from genaf_sdk.data import DataSplits
    from genaf_sdk.models.encoder import PixelEncoder
    from genaf_sdk.preparation import Candidate

logger = logging.getLogger(__name__)
CHECKPOINTS = 3
"""A run keeps two checkpoints and writes a third; each holds weights and moments."""
SAME = 1e-5
"""How far the logits of a model and of its saved copy may differ, relative to the largest."""
SHOWN = 3
"""How many names a finding lists."""


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


def preflight(
    candidate: Candidate, announce: Callable[[str], object] = str, *, to_the_end: bool = True
) -> list[Finding]:
    """Try encoder, attacks, export, output folder, memory and time of a run; nothing of it is left behind.

    Args:
        candidate: The run.
        announce: Called with the name of what is looked at.
        to_the_end: Whether the rest is tried, too, where something was found that the run would fail of.

    Returns:
        What was found, worst first; the last note says how long each check took.
    """
    findings: list[Finding] = []
    seconds: dict[str, float] = {}
    processes = Processes.of(candidate.accelerator)
    with kept_random_state():
        for subject, check in CHECKS.items():
            announce(subject)
            started = time.monotonic()
            try:
                processes.together(partial(_try, check, candidate, findings))
            except GenafError as error:
                findings.append(Finding.of(subject, error))
            seconds[subject] = time.monotonic() - started
            failed = any(finding.level == "error" for finding in findings)
            if failed and (subject == "encoder" or not to_the_end):
                break  # without a sound encoder whatever else is tried fails for the same reason
    listed = ", ".join(f"{subject} {taken:.1f}" for subject, taken in seconds.items())
    findings.append(Finding("note", "preflight", f"Trying took {sum(seconds.values()):.1f} s: {listed}."))
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _try(check: Callable[[Candidate], Iterable[Finding]], candidate: Candidate, findings: list[Finding]) -> None:
    findings += check(candidate)


def require_ready(candidate: Candidate, announce: Callable[[str], object]) -> None:
    """Try a run as ``preflight`` does; tell what is good to know, warn of what may surprise.

    Raises:
        GenafError: The run would fail, or its result would be wrong.
    """
    for finding in preflight(candidate, announce, to_the_end=False):
        if finding.error is not None:
            raise finding.error
        if finding.level == "note":
            announce(f"{finding.text} Shorter: {finding.remedy}." if finding.remedy else finding.text)
        elif candidate.accelerator.is_main_process:
            logger.warning("%s: %s To do: %s.", finding.subject, finding.text, finding.remedy)


def _encoder(candidate: Candidate) -> Iterator[Finding]:
    published = candidate.published
    frozen = sorted(name.removeprefix("encoder.backbone.") for name in frozen_parameters(published))
    for doubt in require_sound(published, candidate.data.image_shape[1:]):
        yield Finding("warning", "encoder", doubt.text, doubt.remedy)
    if frozen:
        total = sum(1 for _ in published.parameters())
        shown = ", ".join(map(repr, frozen[:SHOWN])) + (", ..." if len(frozen) > SHOWN else "")
        yield Finding(
            "warning",
            "encoder",
            f"{len(frozen)} of its {total} parameters are frozen (requires_grad=False). "
            f"They stay as they are, which an attacker knows: {shown}.",
            "train more of it (tuning.train_last), or call encoder.requires_grad_(True), if that is not wanted",
        )


@torch.no_grad()
def _weights(candidate: Candidate) -> Iterable[Finding]:
    """Save a copy that has moved as in training, load it as its user will, and compare what the two predict."""
    if not candidate.is_alone:
        return ()
    images = _plain_images(candidate)
    trained = copy.deepcopy(candidate.model).cpu().train()
    trained(images)  # what changes in training beside the parameters: statistics, and perhaps what is not saved
    for parameter in trained.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.01 * float(parameter.abs().mean()))
    backbone = None if trained.encoder.source else copy.deepcopy(candidate.published.backbone).cpu()
    with _scratch(candidate) as folder:
        save_classifier(trained, folder)
        try:
            loaded = HardenedModel.from_pretrained(folder, backbone=backbone)
        except OutputError as error:
            raise EncoderError(
                f"The encoder's weights cannot be saved and loaded again: {error.problem}",
                expected="a module whose state_dict holds all of its weights and buffers",
            ) from error
    if relative_difference(loaded(images), trained.eval()(images)) <= SAME:
        return ()
    lost = [name for name, value in trained.named_buffers() if not torch.equal(value, loaded.get_buffer(name))]
    named = f": {lost[0].removeprefix('encoder.backbone.')!r} is not saved" if lost else ""
    raise EncoderError(
        f"The encoder predicts otherwise once it is trained, saved and loaded again{named}.",
        expected="a module whose state_dict holds all that changes in training",
        remedy="keep it in parameters and persistent buffers (register_buffer(..., persistent=True))",
    )


def _attacks(candidate: Candidate) -> Iterable[Finding]:
    if candidate.evaluate:
        config = candidate.config
        require_attacks(config.evaluation.attacks, candidate.published, candidate.data, config.seed)
    return ()


def require_attacks(attacks: Sequence[str], published: PixelEncoder, data: DataSplits, seed: int) -> None:
    """Refuse attacks that could not run.

    Args:
        attacks: As in ``EvaluationConfig``.
        published: The encoder; its layers are the model's.
        data: Tells the size of an image and the number of classes.
        seed: Of the order of the images.

    Raises:
        AttackError: A name or setting is unknown, or a package, a layer or a class is missing.
    """
    pixels, _ = data.train.sample(2, seed=seed)
    for text in attacks:
        attack = load_attack(text)
        try:
            attack.require(published, pixels.to(published.mean.device), len(data.class_names))
        except GenafError:
            raise
        except Exception as error:  # an attack of another package raises whatever its author chose
            raise AttackError(f"{attack.name!r} cannot run: {type(error).__name__}: {error}.") from error


def _export(candidate: Candidate) -> Iterable[Finding]:
    """Export the untrained model, and compare it on random, black and white images."""
    if candidate.folder is None or not candidate.is_alone:
        return ()
    model = copy.deepcopy(candidate.model).cpu().eval()
    with _scratch(candidate) as folder:
        check_parity(model, export_onnx(model, folder / "model.onnx"), _plain_images(candidate))
    return ()


def _plain_images(candidate: Candidate) -> Tensor:
    """Return images (N, C, H, W), as many as the largest batch of ``check_parity``: random, a black and a white one."""
    count = max(BATCH_SIZES)
    images = torch.rand(count, *candidate.data.image_shape, generator=torch.Generator().manual_seed(0))
    images[1], images[2] = 0.0, 1.0
    return images


@contextmanager
def _scratch(candidate: Candidate) -> Iterator[Path]:
    """Context: a folder that is gone afterwards, where the run will write, too; the system's may be small."""
    with tempfile.TemporaryDirectory(dir=candidate.folder, prefix=".trial-") as folder:
        yield Path(folder)


def _output_folder(candidate: Candidate) -> Iterator[Finding]:
    if candidate.folder is None:
        return
    size = sum(value.numel() * value.element_size() for value in candidate.model.state_dict().values())
    needed = size * (CHECKPOINTS * (MOMENTS - 1) + 4)  # and the bundle: weights, and the ONNX file in three precisions
    free = shutil.disk_usage(candidate.folder).free
    foreign = foreign_files(candidate.folder)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        yield Finding(
            "warning",
            "output folder",
            f"{candidate.folder} holds {foreign[0]!r}{more}, which no run wrote. A bundle among other files is not "
            "whole: it is refused when it is loaded, verified or pushed.",
            "choose another output_dir, or move them before the model is used",
        )
    if needed > free:
        yield Finding(
            "warning",
            "output folder",
            f"Checkpoints and the bundle take about {_bytes(needed)}; {candidate.folder} has {_bytes(free)} left.",
            "free some, or choose another output_dir",
        )


def _memory(candidate: Candidate) -> Iterator[Finding]:
    settled = settled_machine(candidate)
    needed, free = memory_of_a_step(candidate, settled), free_memory(candidate.accelerator.device)
    again = "" if settled == candidate.config.machine else ", with activations that are computed again,"
    text = f"A training step takes{again} about {_bytes(needed)} of {_bytes(free)} that are free."
    if needed > free:
        remedy = "set machine.micro_batch_size, tuning.train_last or tuning.lora_rank, or lower the batch or image size"
        yield Finding("warning", "memory", text, remedy)
    else:
        yield Finding("note", "memory", text)


def _time(candidate: Candidate) -> Iterator[Finding]:
    if not candidate.is_alone:
        return
    parts = seconds_of_parts(candidate)
    longest = max(parts, key=lambda part: parts[part])
    listed = ", ".join(f"{part} {duration(seconds)}" for part, seconds in parts.items())
    text = f"The run takes about {duration(sum(parts.values()))} here: {listed}."
    if "stage 2" in parts and candidate.config.method.later_passes_may_grow:
        text += " Stage 2 takes longer if its probe finds something to gain."
    yield Finding("note", "time", text, SHORTER[longest])


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(1, round(count / 2**20))} MiB"


CHECKS: dict[str, Callable[[Candidate], Iterable[Finding]]] = {
    "encoder": _encoder,
    "weights": _weights,
    "attacks": _attacks,
    "export": _export,
    "output folder": _output_folder,
    "memory": _memory,
    "time": _time,
}
"""What is looked at, in this order."""
