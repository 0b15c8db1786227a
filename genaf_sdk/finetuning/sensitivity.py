"""Robust sensitivity: how much robustness each layer carries (module robust criticality, Zhu et al., ICCV 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from genaf_sdk.errors import TrainingError
from genaf_sdk.model import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.config import SensitivityConfig

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)
BATCH = 256


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of every convolution, linear and attention layer by its exact parameter name."""
    found: dict[str, nn.Parameter] = {}
    for path, module in model.named_modules():
        if isinstance(module, LAYERS):
            own = module.named_parameters(prefix=path, recurse=False)
            found |= {name: parameter for name, parameter in own if parameter.ndim >= 2}
    return found


def robust_sensitivity(
    model: nn.Module,
    adversarial: Tensor,
    labels: Tensor,
    config: SensitivityConfig,
    *,
    on_layer: Callable[[str], object] = str,
) -> dict[str, float]:
    """Return, for every layer, the largest rise of the adversarial loss that moving its weight can reach.

    ``max_d CE(f(x_adv; w + d), y) - CE(f(x_adv; w), y)`` subject to ``||d||_F <= radius ||w||_F``, by normalised
    gradient ascent that is projected at every step; the images stay fixed and the model in eval mode.

    Args:
        model: Pixels to logits.
        adversarial: Adversarial training images (N, C, H, W).
        labels: Their classes (N,).
        config: Radius and number of steps.
        on_layer: Called with each layer's name before it is measured.

    Returns:
        Layer name -> rise of the mean cross-entropy, at least 0. Low: robust redundancy, the layer may be fine-tuned.

    Raises:
        TrainingError: A loss is not finite; the error names the layer.
    """
    with inference_mode_of(model):
        baseline, _ = _loss_and_gradient(model, "", None, adversarial, labels)
        rises = {}
        for name, weight in layer_weights(model).items():
            on_layer(name)
            rises[name] = max(0.0, _largest_loss(model, name, weight.detach(), adversarial, labels, config) - baseline)
    return rises


def _largest_loss(
    model: nn.Module, name: str, weight: Tensor, images: Tensor, labels: Tensor, config: SensitivityConfig
) -> float:
    radius = config.radius * float(weight.norm())
    change = torch.zeros_like(weight)
    largest = -math.inf
    for step in range(config.steps + 1):
        last = step == config.steps
        loss, gradient = _loss_and_gradient(model, name, weight + change, images, labels, gradient=not last)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The adversarial loss is {loss} when the layer {name!r} moves by up to {config.radius:g} of its norm.",
                remedy="lower sensitivity.radius, or look at that layer's weights",
            )
        largest = max(largest, loss)
        length = float(gradient.norm())
        if last or length == 0:
            break
        # The first step goes to the border, which is exact to first order; the later ones turn along it.
        change = change + gradient * (radius / length)
        change = change * min(1.0, radius / max(float(change.norm()), 1e-30))
    return largest


def _loss_and_gradient(
    model: nn.Module, name: str, weight: Tensor | None, images: Tensor, labels: Tensor, *, gradient: bool = True
) -> tuple[float, Tensor]:
    """Mean cross-entropy with one weight replaced, and its gradient with respect to that weight."""
    total = torch.zeros(())
    replacement = {} if weight is None else {name: weight.detach().requires_grad_(gradient)}
    slope = torch.zeros(()) if weight is None else torch.zeros_like(weight)
    with torch.set_grad_enabled(gradient and weight is not None):
        for pixels, targets in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            logits = functional_call(model, replacement, (pixels,)).float()
            loss = F.cross_entropy(logits, targets, reduction="sum") / len(labels)
            total = total + loss.detach().cpu()
            if weight is not None and gradient:
                slope = slope + torch.autograd.grad(loss, replacement[name])[0]
    return float(total), slope


def redundant_layers(contributions: dict[str, float], fraction: float) -> list[str]:
    """Return the ``fraction`` of layers that contribute least to robustness, at least one, least first."""
    count = max(1, int(fraction * len(contributions)))
    return sorted(contributions, key=lambda name: contributions[name])[:count]
