"""UAP: DeepFool steps of many images, added up to one perturbation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.ascent import gradient_of
from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.batches import endless_batches, outputs_of
from genaf_sdk.attacks.pseudo_classes import feature_classes, probe_classes
from genaf_sdk.attacks.registry import register
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.precision import CraftingPrecision
from genaf_sdk.settings import Count, Share

if TYPE_CHECKING:
    from genaf_sdk.attacks.base import Classifier


@register
@dataclass(frozen=True)
class UAP(EncoderAttack):
    """For images that d does not fool yet, adds the shortest step over the nearest boundary to d, and projects d.

    The publication needs a classifier and a bare encoder has none. ``pseudo_classes`` says what stands in:
    ``feature``, the arg-max coordinate of the features, each brought to mean 0 and deviation 1 over the surrogate
    images; ``probe``, a linear probe on clusters of the features. Images are taken in batches, whose steps are
    added up, rather than one by one. Native budget 10 of 255 (L_inf).
    """

    name = "uap"
    source = "Moosavi-Dezfooli et al., Universal Adversarial Perturbations, CVPR 2017"

    pseudo_classes: Literal["feature", "probe"] = "probe"
    epochs: Count = 10
    """At most; it ends when ``fooling_rate`` is reached."""
    fooling_rate: Share = 0.8
    batch_size: Count = 128
    deepfool_steps: Count = 10
    deepfool_classes: Count = 10
    """How many of the likeliest classes DeepFool looks at."""
    overshoot: float = 0.02
    precision: CraftingPrecision = "fp32"
    """A step that ends just over a boundary, by 2 %, is lost in the rounding of bf16."""

    def passes(self, images: int) -> float:
        """Return those of DeepFool, whose every step goes back once for each class."""
        return float(self.epochs * images * self.deepfool_steps * self.deepfool_classes)

    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Add up."""
        make = feature_classes if self.pseudo_classes == "feature" else probe_classes
        classify = make(encoder, surrogate, generator)
        space, clean = input_space(encoder, surrogate), _predict(classify, surrogate)
        delta = torch.zeros_like(surrogate[0])
        order = endless_batches(len(surrogate), self.batch_size, generator)
        rate = 0.0
        for _ in range(self.epochs):
            for _ in range(max(1, len(surrogate) // self.batch_size)):
                batch = next(order).to(surrogate.device)
                images = space.add(surrogate[batch], delta)
                steps = deepfool(
                    classify,
                    images[_predict(classify, images) == clean[batch]],
                    classes=self.deepfool_classes,
                    steps=self.deepfool_steps,
                    overshoot=self.overshoot,
                )
                if len(steps):
                    delta = self.threat.project(delta + steps.sum(dim=0))
            rate = float((_predict(classify, space.add(surrogate, delta)) != clean).float().mean())
            if rate >= self.fooling_rate:
                break
        return Perturbation(delta, self.threat, details={"reached_fooling_rate": round(rate, 4)})


def deepfool(classify: Classifier, images: Tensor, *, classes: int, steps: int, overshoot: float) -> Tensor:
    """Return the shortest L2 step of each image over the nearest linearized boundary (Moosavi-Dezfooli et al. 2016).

    Args:
        classify: Images to scores (N, K).
        images: (N, C, H, W); they move freely, the pixel range is not looked at.
        classes: How many of the likeliest classes are considered.
        steps: Linearizations, at most; an image that has changed its class takes no further one.
        overshoot: The step is made longer by this share.

    Returns:
        Steps (N, C, H, W).
    """
    total = torch.zeros_like(images)
    if len(images) == 0:
        return total
    with torch.no_grad():
        ranking = classify(images).topk(min(classes, classify(images[:1]).shape[1]), dim=1).indices
    rows = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        moved = (images[rows] + (1 + overshoot) * total[rows]).detach().requires_grad_()
        scores = classify(moved)
        same = scores.detach().argmax(dim=1) == ranking[rows, 0]
        if not bool(same.any()):
            break
        chosen = scores.gather(1, ranking[rows])
        gradients = torch.stack(
            [gradient_of(chosen[:, k].sum(), moved, retain_graph=True) for k in range(chosen.shape[1])], dim=1
        )
        normals = gradients[:, 1:] - gradients[:, :1]
        gaps = (chosen[:, 1:] - chosen[:, :1]).detach().abs()
        lengths = normals.flatten(2).norm(dim=2) + 1e-12
        nearest = (gaps / lengths).argmin(dim=1)
        own = torch.arange(len(rows), device=rows.device)
        scale = (gaps[own, nearest] / lengths[own, nearest] + 1e-4) / lengths[own, nearest]
        step = scale[:, None, None, None] * normals[own, nearest]
        total[rows[same]] += step[same]
        rows = rows[same]
    return (1 + overshoot) * total


def _predict(classify: Classifier, images: Tensor) -> Tensor:
    return outputs_of(lambda batch: classify(batch).argmax(dim=1), images)
