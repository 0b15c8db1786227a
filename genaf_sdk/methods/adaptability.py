"""Stage 2: evolutionary adaptability fine-tuning of the robust redundant layers on clean data (paper, stage 2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from genaf_sdk.engine.cost import Spent
from genaf_sdk.methods.fine_tuning import FineTuning
from genaf_sdk.methods.guard import GUARD_IMAGES, Guard, Interpolation, WeightPath, measured_points, select
from genaf_sdk.methods.sensitivity import (
    AT_ONCE,
    Sensitivity,
    climbed_layers,
    first_order_rises,
    layer_weights,
    redundant_layers,
    robust_sensitivity,
)
from genaf_sdk.methods.steps import SignSteps, ascend
from genaf_sdk.settings import AtLeast, Between, Count, Epsilon, LearningRate, Settings, Share

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from genaf_sdk.engine.schedule import Schedule
    from genaf_sdk.engine.stage import Stage
    from genaf_sdk.methods.lab import Lab

ATTACK_STEPS = 10
SMALL = 2**20
"""Pixels that cross the network at a time in any case: 256 images of 64 x 64."""
PROBED = (0.5, 1.0)
"""Points between the weights before and after the probe at which it is looked for a gain."""
NO_LAYERS = "no convolution, linear or attention layer is trained"
NO_GAIN = "an epoch of the probe brought no clean accuracy on validation images"
NO_KEEPING = "what the probe gained in clean accuracy cost accuracy under universal perturbations"


@dataclass(frozen=True)
class Adaptability(Settings):
    """Stage 2: the least sensitive layers learn from clean data alone, as far as robustness allows."""

    redundant_fraction: Annotated[float, Between(1e-6, 1.0)] = 0.2
    """Share of the layers that is fine-tuned; at least one layer is."""
    epochs: Annotated[int, AtLeast(0)] = 6
    """Passes over the training images; 0 skips stage 2."""
    probe_epochs: Annotated[int, AtLeast(0)] = 1
    """Of a probe on the layers that matter least to first order; stage 2 follows where it finds something to gain. 0
    goes without."""
    batch_size: Annotated[int, AtLeast(2)] = 128
    """Global batch size, across all processes."""
    learning_rate: LearningRate | None = None
    """None takes a third of the encoder's in stage 1."""
    weight_decay: Share = 8e-4
    """Adam's, an L2 penalty on the weights that are trained."""
    interpolations: Count = 5
    """How many points between the stage-1 and the fine-tuned weights the guard tries."""
    tolerance: Share = 0.0
    """Allowed drop in robust validation accuracy (0.01 is one percentage point)."""
    epsilon: Epsilon = 8 / 255
    """L_inf budget of the sample-wise attacks that sensitivity and guard measure under."""
    sensitivity: Sensitivity = Sensitivity()

    @property
    def attack(self) -> SignSteps:
        """Settings of those attacks."""
        return SignSteps(epsilon=self.epsilon, step_size=self.epsilon / 4, steps=ATTACK_STEPS)

    @property
    def is_probed(self) -> bool:
        """Whether a probe decides on stage 2."""
        return self.epochs > 0 and self.probe_epochs > 0


@dataclass(frozen=True)
class Adaptation:
    """What stage 2 did: the layers it trained, the points whose robustness was measured, the coefficient it kept.

    ``skipped`` is why it came to no more than a probe, which is undone; empty where it ran.
    """

    layers: list[str]
    points: list[Interpolation]
    coefficient: float
    skipped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain objects, ready for JSON; the coefficient is called ``share`` there."""
        points = [{"share": point.coefficient, **asdict(point)} for point in self.points]
        for point in points:
            del point["coefficient"]
        return {"layers": self.layers, "points": points, "share": self.coefficient, "skipped": self.skipped}


def adaptability_stages(lab: Lab, settings: Adaptability, first: Stage) -> Iterator[Stage]:
    """Probe, measure which layers robustness depends on least, yield their training on clean data, then step back.

    All other parameters are frozen and every normalization layer stays in eval mode. The guard (from RiFT) interpolates
    between the weights before and after and keeps the best clean validation accuracy among the points whose robust
    validation accuracy, under universal and under sample-wise perturbations, is not below stage 1's by more than
    ``settings.tolerance``. Of equal points the one nearest to stage 1 is kept. Where the probe finds nothing to gain,
    there is no more than it.

    Args:
        lab: The model after stage 1, its data and run; gets ``sensitivity`` and ``adaptation`` as findings.
        settings: Of stage 2.
        first: Stage 1, whose augmentation is kept and whose universal perturbations the guard replays.

    Raises:
        TrainingError: A loss is no longer finite.
    """
    if not layer_weights(lab.model):
        lab.findings["adaptation"] = Adaptation([], [], 0.0, NO_LAYERS)
        return
    bank = None if first.memory is None else first.memory.state().get("perturbations")
    at_once = _images_at_once(lab, first)
    guard = Guard(lab, settings.attack, bank, at_once)
    schedule = _schedule(lab, settings, first)
    if settings.probe_epochs:
        reason = yield from _probe(lab, settings, schedule, guard)
        lab.clock.stop("probe", lab.run.earlier.get("probed layers", Spent()))
        if reason:
            return
    contributions = _sensitivity(lab, settings, at_once)
    lab.findings["sensitivity"] = contributions
    lab.clock.stop("sensitivity", lab.run.earlier.get("sensitivity", Spent()))
    layers = redundant_layers(contributions, settings.redundant_fraction)
    before = _weights(lab, layers)
    yield _clean_stage(lab, "stage 2", schedule, layers)
    path = WeightPath(lab, before, _weights(lab, layers))
    coefficients = [index / settings.interpolations for index in range(settings.interpolations + 1)]
    points = measured_points(guard, path, coefficients, settings.tolerance)
    chosen = lab.run.processes.broadcast(select(points, settings.tolerance))
    path.go_to(chosen.coefficient)
    lab.findings["adaptation"] = Adaptation(layers, points, chosen.coefficient)
    lab.clock.stop("stage 2")


def adaptability_passes(lab: Lab, settings: Adaptability) -> float:
    """Return about how many images cross the network, forth and back: sensitivity, training, guard; 0 without epochs.

    What only goes forth counts a third. Where a probe decides, it is the probe alone: more follows only if it gains.
    Without one, all points of the guard count, of which it may need two.
    """
    if settings.epochs == 0:
        return 0.0
    data, sensitivity = lab.data, settings.sensitivity
    if settings.probe_epochs:
        an_epoch = len(data.train) + len(data.validation) / 3
        points = (1 + len(PROBED)) * len(data.validation) / 3
        return min(sensitivity.samples, len(data.train)) + settings.probe_epochs * an_epoch + points
    climbed = climbed_layers(lab.model, sensitivity, settings.redundant_fraction)
    measured = min(sensitivity.samples, len(data.train)) * (ATTACK_STEPS + 1 + climbed * sensitivity.steps)
    trained = (settings.probe_epochs + settings.epochs) * (len(data.train) + len(data.validation) / 3)
    a_point = min(GUARD_IMAGES, len(data.validation)) * ATTACK_STEPS + len(data.validation) / 3
    return measured + trained + (settings.interpolations + 1) * a_point


def _schedule(lab: Lab, settings: Adaptability, first: Stage) -> Schedule:
    rate = settings.learning_rate
    if rate is None:
        found = lab.run.range_tests.get(first.name)
        size = sum(parameter.numel() for parameter in lab.model.encoder.parameters())
        rate = (first.schedule.encoder_rate(size) if found is None else found.chosen) / 3
    return first.schedule.with_(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        encoder_learning_rate=rate,
        head_learning_rate=rate,
        weight_decay=settings.weight_decay,
        decay="cosine",
    )


def _images_at_once(lab: Lab, first: Stage) -> int:
    """Return how many images cross the network at a time while layers and points are measured.

    As a step of stage 1 has: where memory was short for that, it must not run out now. Of small images more are faster.
    """
    most = lab.run.machine.micro_batch_size
    if most is None:
        height, width = lab.data.image_shape[1:]
        most = max(first.schedule.batch(len(lab.data.train)), SMALL // (height * width))
    return most


def _clean_stage(lab: Lab, name: str, schedule: Schedule, layers: list[str]) -> Stage:
    trained = frozenset(layers)
    return lab.stage(name, FineTuning(schedule=schedule), trains=trained.__contains__, train_mode=_only_dropout_trains)


def _probe(lab: Lab, settings: Adaptability, schedule: Schedule, guard: Guard) -> Generator[Stage, None, str]:
    """Yield a short training of the layers that matter least to first order, undo it, and return why it is the last.

    Empty where some point on the way gained clean validation accuracy and lost none under the guard's perturbations.
    Those are tried only where clean accuracy was gained.
    """
    run, bank = lab.run, guard.perturbations

    def least_sensitive() -> list[str]:
        images, labels = (part.to(run.accelerator.device) for part in _samples(lab, settings))
        if bank is not None:
            images = lab.data.space.clip(images + bank[torch.arange(len(images), device=bank.device) % len(bank)])
        with run.accelerator.autocast():
            rises = first_order_rises(lab.model, images, labels, settings.sensitivity, min(guard.at_once, AT_ONCE))
        return redundant_layers(rises, settings.redundant_fraction)

    layers: list[str] = run.once("probed layers", lambda: run.processes.together(least_sensitive))
    before = _weights(lab, layers)
    yield _clean_stage(lab, "probe", schedule.with_(epochs=settings.probe_epochs), layers)
    path = WeightPath(lab, before, _weights(lab, layers))
    clean = {coefficient: path.at(coefficient, guard.clean) for coefficient in (0.0, *PROBED)}
    gains = [coefficient for coefficient in PROBED if clean[coefficient] > clean[0.0]]
    reason = "" if gains else NO_GAIN
    if gains:
        least_universal = path.at(0.0, guard.universal) - settings.tolerance
        if all(path.at(coefficient, guard.universal) < least_universal for coefficient in gains):
            reason = NO_KEEPING
    path.go_to(0.0)
    reason = run.processes.broadcast(reason)
    if reason:
        lab.findings["adaptation"] = Adaptation(layers, [], 0.0, reason)
    return reason


def _samples(lab: Lab, settings: Adaptability) -> tuple[Tensor, Tensor]:
    return lab.data.train.sample(settings.sensitivity.samples, seed=lab.run.seed)


def _sensitivity(lab: Lab, settings: Adaptability, at_once: int) -> dict[str, float]:
    """Return the sensitivity of every layer that the user has not frozen; once for all, if the run is resumed."""
    run, model = lab.run, lab.model
    announce = run.announce("sensitivity")

    def measured() -> dict[str, float]:
        pixels, labels = (tensor.to(run.accelerator.device) for tensor in _samples(lab, settings))
        with run.accelerator.autocast():
            parts = zip(pixels.split(at_once), labels.split(at_once), strict=True)
            found = [ascend(model, part, own, torch.zeros_like(part), settings.attack)[0] for part, own in parts]
            return robust_sensitivity(
                model,
                torch.cat(found),
                labels,
                settings.sensitivity,
                redundant_fraction=settings.redundant_fraction,
                on_layer=announce,
                at_once=min(at_once, AT_ONCE),
            )

    contributions: dict[str, float] = run.once("sensitivity", lambda: run.processes.together(measured))
    return contributions


def _weights(lab: Lab, names: list[str]) -> dict[str, Tensor]:
    return {name: lab.model.get_parameter(name).detach().clone() for name in names}


def _only_dropout_trains(model: nn.Module) -> None:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
