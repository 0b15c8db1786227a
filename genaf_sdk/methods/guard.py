"""The guard of stage 2: of the weights between two trainings it keeps the best that are as robust as the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.engine.accuracy import accuracy
from genaf_sdk.methods.steps import SignSteps, ascend
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.models.parts import in_parts, parts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.methods.lab import Lab

GUARD_IMAGES = 512


@dataclass(frozen=True)
class Interpolation:
    """One point between the stage-1 weights (coefficient 0) and the fine-tuned ones (1), on validation images."""

    coefficient: float
    clean_accuracy: float
    universal_accuracy: float
    """Lowest over the universal perturbations of stage 1; 1 where it kept none."""
    sample_wise_accuracy: float


class WeightPath:
    """The way between two sets of weights of a model: coefficient 0 is before, 1 after.

    Args:
        lab: The model, which stands at 1.
        before: Weights, by name.
        after: The same ones later.
    """

    def __init__(self, lab: Lab, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
        self.lab, self.before, self.after = lab, before, after

    @torch.no_grad()
    def go_to(self, coefficient: float) -> None:
        """Give the model the weights at a point."""
        for name, before in self.before.items():
            self.lab.model.get_parameter(name).copy_(torch.lerp(before, self.after[name], coefficient))

    def at(self, coefficient: float, measure: Callable[[], float]) -> float:
        """Return what ``measure`` says of the model at a point, where it stays."""
        self.go_to(coefficient)
        return measure()


class Guard:
    """Accuracies of the model as it is, on validation images.

    Args:
        lab: The model, its data and run.
        attack: Settings of the sample-wise attack.
        perturbations: The universal ones of stage 1, (K, C, H, W); None where it kept none.
        at_once: How many images are attacked, or classified, at a time.
    """

    def __init__(self, lab: Lab, attack: SignSteps, perturbations: Tensor | None, at_once: int = GUARD_IMAGES) -> None:
        self.lab, self.attack, self.perturbations, self.at_once = lab, attack, perturbations, at_once

    def clean(self) -> float:
        """Return the accuracy on all validation images; all processes have to call this."""
        run = self.lab.run
        return accuracy(self.lab.model, self.lab.data.validation, run.accelerator.device, run.processes)

    def universal(self) -> float:
        """Return the lowest accuracy under a universal perturbation, on up to ``GUARD_IMAGES``; 1 without any."""
        pixels, labels = self._images()
        perturbations = () if self.perturbations is None else self.perturbations
        under = (self._right(self.lab.data.space.clip(pixels + each), labels) for each in perturbations)
        return min(under, default=1.0)

    def sample_wise(self) -> float:
        """Return the accuracy under the sample-wise attack, on up to ``GUARD_IMAGES``."""
        model, (pixels, labels) = self.lab.model, self._images()
        parts = [part for some in pixels.split(self.at_once) for part in parts_of(some)]
        targets = labels.split([len(part) for part in parts])
        with self.lab.run.accelerator.autocast():  # to find the images; scored in float32, as they are deployed
            found = [
                ascend(model, part, target, torch.zeros_like(part), self.attack)[0]
                for part, target in zip(parts, targets, strict=True)
            ]
        return self._right(torch.cat(found), labels)

    @torch.no_grad()
    def _right(self, pixels: Tensor, labels: Tensor) -> float:
        with inference_mode_of(self.lab.model):
            parts = pixels.split(self.at_once)
            correct = torch.cat([in_parts(self.lab.model, part).argmax(1) for part in parts]) == labels
        return float(correct.float().mean())

    def _images(self) -> tuple[Tensor, Tensor]:
        pixels, labels = self.lab.data.validation.sample(GUARD_IMAGES, seed=self.lab.run.seed)
        device = self.lab.run.accelerator.device
        return pixels.to(device), labels.to(device)


def measured_points(guard: Guard, path: WeightPath, coefficients: list[float], tolerance: float) -> list[Interpolation]:
    """Return the points that ``select`` needs to see: stage 1's, and those of better clean accuracy, the best first.

    A point that keeps stage 1's robustness ends the search, as the others are no better on clean images. So ``select``
    chooses what it would choose among all points.

    Args:
        guard: Measures.
        path: Between the weights before and after.
        coefficients: Of the points, ascending from 0.
        tolerance: As for ``select``.

    Returns:
        What was measured, by ascending coefficient.
    """
    clean = {coefficient: path.at(coefficient, guard.clean) for coefficient in coefficients}

    def measured(coefficient: float) -> Interpolation:
        path.go_to(coefficient)
        return Interpolation(coefficient, clean[coefficient], guard.universal(), guard.sample_wise())

    points = [measured(0.0)]
    better = [coefficient for coefficient in coefficients if clean[coefficient] > clean[0.0]]
    for coefficient in sorted(better, key=lambda coefficient: (-clean[coefficient], coefficient)):
        points.append(measured(coefficient))
        if select(points, tolerance).coefficient:
            break
    return sorted(points, key=lambda point: point.coefficient)


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
