"""Stage 2: evolutionary adaptability fine-tuning of the robust redundant layers on clean data (paper, stage 2)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from genaf_sdk.engine.accuracy import accuracy
from genaf_sdk.methods.fine_tuning import FineTuning
from genaf_sdk.methods.pgd import PGD, ascend
from genaf_sdk.methods.sensitivity import Sensitivity, climbed_layers, redundant_layers, robust_sensitivity
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.settings import AtLeast, Between, Count, Epsilon, LearningRate, Settings, Share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.engine.stage import Stage
    from genaf_sdk.methods.lab import Lab

GUARD_IMAGES = 512
ATTACK_STEPS = 10


@dataclass(frozen=True)
class Adaptability(Settings):
    """Stage 2: the least sensitive layers learn from clean data alone, as far as robustness allows."""

    redundant_fraction: Annotated[float, Between(1e-6, 1.0)] = 0.2
    """Share of the layers that is fine-tuned; at least one layer is."""
    epochs: Annotated[int, AtLeast(0)] = 6
    """0 skips stage 2."""
    batch_size: Annotated[int, AtLeast(2)] = 128
    learning_rate: LearningRate = 1e-3
    weight_decay: Share = 8e-4
    interpolations: Count = 5
    """How many points between the stage-1 and the fine-tuned weights the guard tries."""
    tolerance: Share = 0.0
    """Allowed drop in robust validation accuracy (0.01 is one percentage point)."""
    epsilon: Epsilon = 8 / 255
    """L_inf budget of the sample-wise attacks that sensitivity and guard measure under."""
    sensitivity: Sensitivity = Sensitivity()

    @property
    def attack(self) -> PGD:
        """Settings of those attacks."""
        return PGD(epsilon=self.epsilon, step_size=self.epsilon / 4, steps=ATTACK_STEPS)


@dataclass(frozen=True)
class Interpolation:
    """One point between the stage-1 weights (coefficient 0) and the fine-tuned ones (1), on validation images."""

    coefficient: float
    clean_accuracy: float
    universal_accuracy: float
    """Lowest over the universal perturbations of stage 1; 1 where it kept none."""
    sample_wise_accuracy: float


@dataclass(frozen=True)
class Adaptation:
    """What stage 2 did: the layers it trained, every point that the guard measured, the coefficient it kept."""

    layers: list[str]
    points: list[Interpolation]
    coefficient: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain objects, ready for JSON; the coefficient is called ``share`` there."""
        points = [{"share": point.coefficient, **asdict(point)} for point in self.points]
        for point in points:
            del point["coefficient"]
        return {"layers": self.layers, "points": points, "share": self.coefficient}


def adaptability_stages(lab: Lab, settings: Adaptability, first: Stage) -> Iterator[Stage]:
    """Measure which layers robustness depends on least, yield their training on clean data, then step back.

    All other parameters are frozen and every normalization layer stays in eval mode. The guard (from RiFT) interpolates
    between the weights before and after and keeps the best clean validation accuracy among the points whose robust
    validation accuracy, under universal and under sample-wise perturbations, is not below stage 1's by more than
    ``settings.tolerance``. Of equal points the one nearest to stage 1 is kept.

    Args:
        lab: The model after stage 1, its data and run; gets ``sensitivity`` and ``adaptation`` as findings.
        settings: Of stage 2.
        first: Stage 1, whose augmentation is kept and whose universal perturbations the guard replays.

    Raises:
        TrainingError: A loss is no longer finite.
    """
    contributions = _sensitivity(lab, settings)
    lab.findings["sensitivity"] = contributions
    lab.clock.stop("sensitivity")
    layers = redundant_layers(contributions, settings.redundant_fraction)
    before = {name: lab.model.get_parameter(name).detach().clone() for name in layers}
    schedule = first.schedule.with_(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        encoder_learning_rate=settings.learning_rate,
        head_learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        decay="cosine",
    )
    trained = frozenset(layers)
    method = FineTuning(schedule=schedule)
    yield lab.stage("stage 2", method, trains=trained.__contains__, train_mode=_only_dropout_trains)

    weights = {name: lab.model.get_parameter(name) for name in layers}
    after = {name: weight.detach().clone() for name, weight in weights.items()}
    bank = None if first.memory is None else first.memory.state().get("perturbations")
    points = []
    for index in range(settings.interpolations + 1):
        coefficient = index / settings.interpolations
        _interpolate(weights, before, after, coefficient)
        points.append(measure_guard(lab, settings, coefficient, bank))
    chosen = lab.run.processes.broadcast(select(points, settings.tolerance))
    _interpolate(weights, before, after, chosen.coefficient)
    lab.findings["adaptation"] = Adaptation(layers, points, chosen.coefficient)
    lab.clock.stop("stage 2")


def adaptability_passes(lab: Lab, settings: Adaptability) -> float:
    """Return about how many images cross the network, forth and back: sensitivity, training, guard; 0 without epochs.

    What only goes forth counts a third.
    """
    if settings.epochs == 0:
        return 0.0
    data, sensitivity = lab.data, settings.sensitivity
    climbed = climbed_layers(lab.model, sensitivity, settings.redundant_fraction)
    measured = min(sensitivity.samples, len(data.train)) * (ATTACK_STEPS + 1 + climbed * sensitivity.steps)
    trained = settings.epochs * (len(data.train) + len(data.validation) / 3)
    a_point = min(GUARD_IMAGES, len(data.validation)) * ATTACK_STEPS + len(data.validation) / 3
    return measured + trained + (settings.interpolations + 1) * a_point


def _sensitivity(lab: Lab, settings: Adaptability) -> dict[str, float]:
    """Return the sensitivity of every layer that the user has not frozen; once for all, if the run is resumed."""
    run, model = lab.run, lab.model
    announce = run.announce("sensitivity")

    def measured() -> dict[str, float]:
        samples = lab.data.train.head(settings.sensitivity.samples, seed=run.seed)
        pixels, labels = (tensor.to(run.accelerator.device) for tensor in samples)
        with run.accelerator.autocast():
            adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), settings.attack)
            found = robust_sensitivity(
                model,
                adversarial,
                labels,
                settings.sensitivity,
                redundant_fraction=settings.redundant_fraction,
                on_layer=announce,
            )
        return {name: rise for name, rise in found.items() if name not in lab.frozen}

    contributions: dict[str, float] = run.checkpoints.load_or_compute("sensitivity", measured)
    return contributions


def select(points: list[Interpolation], tolerance: float) -> Interpolation:
    """Return the point of best clean accuracy among those that keep stage 1's (the first point's) robustness."""
    first = points[0]
    kept = [
        point
        for point in points
        if point.universal_accuracy >= first.universal_accuracy - tolerance
        and point.sample_wise_accuracy >= first.sample_wise_accuracy - tolerance
    ]
    return max(kept, key=lambda point: (point.clean_accuracy, -point.coefficient))


def measure_guard(lab: Lab, settings: Adaptability, coefficient: float, perturbations: Tensor | None) -> Interpolation:
    """Measure clean accuracy on all validation images, robust accuracies on up to ``GUARD_IMAGES`` of them."""
    run, model, validation = lab.run, lab.model, lab.data.validation
    device = run.accelerator.device
    clean = accuracy(model, validation, device, run.processes)
    pixels, labels = (tensor.to(device) for tensor in validation.head(GUARD_IMAGES, seed=run.seed))
    universal = 1.0
    with inference_mode_of(model), torch.no_grad():
        for perturbation in perturbations if perturbations is not None else ():
            correct = model(lab.data.space.clip(pixels + perturbation)).argmax(1) == labels
            universal = min(universal, float(correct.float().mean()))
        with run.accelerator.autocast():  # to find the images; they are scored in float32, as they are deployed
            adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), settings.attack)
        sample_wise = float((model(adversarial).argmax(1) == labels).float().mean())
    return Interpolation(coefficient, clean, universal, sample_wise)


@torch.no_grad()
def _interpolate(
    weights: dict[str, nn.Parameter], before: dict[str, Tensor], after: dict[str, Tensor], coefficient: float
) -> None:
    for name, weight in weights.items():
        weight.copy_(torch.lerp(before[name], after[name], coefficient))


def _only_dropout_trains(model: nn.Module) -> None:
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
