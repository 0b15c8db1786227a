"""Robust sensitivity: how much robustness each layer carries (module robust criticality, Zhu et al., ICCV 2023)."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.errors import TrainingError
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.precision import loss_gradients
from genaf_sdk.settings import Between, Count, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)
AT_ONCE = 256
"""Images that cross the network at a time, unless memory is known to be shorter."""


@dataclass(frozen=True)
class Sensitivity(Settings):
    """Robust sensitivity: how far the adversarial loss can rise when one layer's weight moves."""

    method: Literal["fast", "exact"] = "fast"
    """``exact`` measures every layer, ``fast`` those that may be among the redundant ones."""
    radius: Annotated[float, Between(1e-6, 10.0)] = 0.1
    """The perturbation's Frobenius norm, as a share of the weight's."""
    steps: Count = 3
    """Of gradient ascent on a layer's weight."""
    samples: Count = 256
    """How many adversarial training images the loss is measured on."""


def layer_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weight of every convolution, linear and attention layer that is not frozen, by its parameter name.

    A weight of several names has the first alone, as in ``named_parameters``; of a parametrized one (weight or spectral
    normalization) it is the largest of the tensors that it is computed from.
    """
    found: set[int] = set()
    for module in model.modules():
        if isinstance(module, LAYERS):
            tensors = list(module.parameters(recurse=False))
            for parametrization in getattr(module, "parametrizations", nn.ModuleDict()).values():
                tensors += sorted(parametrization.parameters(), key=Tensor.numel)[-1:]
            found |= {id(tensor) for tensor in tensors if tensor.ndim >= 2}
    return {name: weight for name, weight in model.named_parameters() if id(weight) in found and weight.requires_grad}


def robust_sensitivity(
    model: nn.Module,
    adversarial: Tensor,
    labels: Tensor,
    config: Sensitivity,
    *,
    redundant_fraction: float = 0.2,
    on_layer: Callable[[str], object] = str,
    at_once: int = AT_ONCE,
) -> dict[str, float]:
    """Return, for every layer, the largest rise of the adversarial loss that moving its weight can reach.

    ``max_d CE(f(x_adv; w + d), y) - CE(f(x_adv; w), y)`` subject to ``||d||_F <= radius ||w||_F``, by normalized
    gradient ascent that is projected at every step; the images stay fixed and the model in eval mode. One backward pass
    gives the first step of all layers, and their rises to first order, ``radius ||w||_F ||gradient||_F``.

    ``config.method == "exact"`` climbs for every layer, outside of any autocast. ``"fast"`` climbs only for those near
    the cut between the least ``redundant_fraction`` and the rest, by first-order rise; the others' are estimates, the
    first-order rise scaled by what climbing gave near the cut. docs/performance.md says how often both select the same
    layers.

    Args:
        model: Pixels to logits.
        adversarial: Adversarial training images (N, C, H, W).
        labels: Their classes (N,).
        config: Method, radius and number of steps.
        redundant_fraction: Share of the layers, the least ones, that ``fast`` is to find.
        on_layer: Called with each layer's name before it is measured.
        at_once: How many images cross the network at a time.

    Returns:
        Layer name -> rise of the mean cross-entropy, at least 0. Low: robust redundancy, the layer may be fine-tuned.
        Layers that are frozen, or that the logits do not depend on, are left out.

    Raises:
        TrainingError: A loss is not finite, or the model's own weights changed; the error names the layer.
    """
    before = _marks(model)
    contributions = _measured(model, adversarial, labels, config, redundant_fraction, on_layer, at_once)
    changed = [name for name, mark in _marks(model).items() if before.get(name) != mark]
    if changed:
        raise TrainingError(
            f"The weight {changed[0]!r} was changed while the sensitivity of the layers was measured.",
            expected="a forward pass that leaves its parameters as they are",
            remedy="remove assignments to parameters from the encoder's forward pass",
        )
    return contributions


def _marks(model: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Return what tells a parameter that was replaced or written to: identity, memory, torch's count of writes."""
    own = model.named_parameters(remove_duplicate=False)
    return {name: (id(weight), weight.data_ptr(), weight._version) for name, weight in own}


def _measured(
    model: nn.Module,
    adversarial: Tensor,
    labels: Tensor,
    config: Sensitivity,
    redundant_fraction: float,
    on_layer: Callable[[str], object],
    at_once: int,
) -> dict[str, float]:
    weights = {name: weight.detach() for name, weight in layer_weights(model).items()}
    own_precision = nullcontext() if config.method == "fast" else torch.autocast(adversarial.device.type, enabled=False)
    with inference_mode_of(model), own_precision:
        baseline, gradients = _loss_and_gradients(model, weights, adversarial, labels, at_once)
        first_order = _to_first_order(weights, gradients, config)

        def rise(name: str, stop_at: float = math.inf) -> float:
            on_layer(name)
            ascent = _WeightAscent(model, name, weights[name], adversarial, labels, at_once)
            return max(0.0, ascent.largest_loss(gradients[name], config, baseline + stop_at) - baseline)

        if config.method == "exact":
            return {name: rise(name) for name in gradients}
        return _refined(first_order, _count(redundant_fraction, len(first_order)), rise)


def first_order_rises(
    model: nn.Module, images: Tensor, labels: Tensor, config: Sensitivity, at_once: int = AT_ONCE
) -> dict[str, float]:
    """Return the rises of ``robust_sensitivity`` to first order, which takes one backward pass.

    Args:
        model: Pixels to logits.
        images: Attacked training images (N, C, H, W).
        labels: Their classes (N,).
        config: Its radius counts.
        at_once: How many images cross the network at a time.

    Raises:
        TrainingError: A rise is not finite.
    """
    weights = {name: weight.detach() for name, weight in layer_weights(model).items()}
    with inference_mode_of(model):
        _, gradients = _loss_and_gradients(model, weights, images, labels, at_once)
    return _to_first_order(weights, gradients, config)


def _to_first_order(weights: dict[str, Tensor], gradients: dict[str, Tensor], config: Sensitivity) -> dict[str, float]:
    rises = {name: config.radius * float(weights[name].norm() * slope.norm()) for name, slope in gradients.items()}
    for name, value in rises.items():
        if not math.isfinite(value):
            raise _diverged(name, value, config)
    return rises


def _refined(first_order: dict[str, float], wanted: int, rise: Callable[[str, float], float]) -> dict[str, float]:
    """Replace first-order rises by exact ones where the ``wanted`` least end; scale the others on their side of it.

    A climb ends where it is above those still wanted, so that the rises above the cut may be too low.
    """
    order = sorted(first_order, key=lambda name: first_order[name])
    first = max(0, wanted - _margin(wanted))
    near = order[first : wanted + _margin(wanted)]
    exact: dict[str, float] = {}
    for name in near:
        best = sorted(exact.values())[: wanted - first]
        exact[name] = rise(name, best[-1] if len(best) == wanted - first else math.inf)
    scale = sum(exact.values()) / max(sum(first_order[name] for name in near), 1e-30)
    low, high = min(exact.values(), default=0.0), max(exact.values(), default=0.0)
    below = {name: min(first_order[name] * scale, low) for name in order[:first]}
    above = {name: max(first_order[name] * scale, high) for name in order[first + len(near) :]}
    found = below | exact | above
    return {name: found[name] for name in first_order}


def _margin(wanted: int) -> int:
    """Return how many layers on either side of the cut are measured exactly."""
    return max(2, wanted // 2)


def climbed_layers(model: nn.Module, config: Sensitivity, redundant_fraction: float) -> int:
    """Return how many layers ``robust_sensitivity`` measures by climbing; arguments as there."""
    layers = len(layer_weights(model))
    wanted = _count(redundant_fraction, layers)
    return layers if config.method == "exact" else min(wanted, _margin(wanted)) + min(layers - wanted, _margin(wanted))


@dataclass(frozen=True)
class _WeightAscent:
    """Ascent of the adversarial loss in the weight of one layer."""

    model: nn.Module
    name: str
    weight: Tensor
    images: Tensor
    labels: Tensor
    at_once: int

    def largest_loss(self, gradient: Tensor, config: Sensitivity, stop_at: float) -> float:
        """Return the largest loss on the way; ``gradient`` is that of the first step, ``stop_at`` ends the climb."""
        radius = config.radius * float(self.weight.norm())
        change, largest = torch.zeros_like(self.weight), -math.inf
        for left in reversed(range(config.steps)):
            length = float(gradient.norm())
            if length > 0:
                # The first step goes to the border, which is exact to first order; the later ones turn along it.
                change = change + gradient * (radius / length)
                change = change * min(1.0, radius / max(float(change.norm()), 1e-30))
            loss, gradients = _loss_and_gradients(
                self.model, {self.name: self.weight + change}, self.images, self.labels, self.at_once, gradient=left > 0
            )
            if not math.isfinite(loss):
                raise _diverged(self.name, loss, config)
            largest = max(largest, loss)
            if left == 0 or length == 0 or largest > stop_at:
                break
            gradient = gradients[self.name]
        return largest


def _diverged(name: str, value: float, config: Sensitivity) -> TrainingError:
    return TrainingError(
        f"The adversarial loss rises to {value} when the layer {name!r} moves by up to {config.radius:g} of its norm.",
        remedy="lower sensitivity.radius, or look at that layer's weights",
    )


def _sums_in(device: torch.device) -> torch.dtype:
    """Return the type of numbers that sums are kept in: float64, which GPUs of Apple and some of Intel lack."""
    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


def _loss_and_gradients(
    model: nn.Module,
    weights: dict[str, Tensor],
    images: Tensor,
    labels: Tensor,
    at_once: int,
    *,
    gradient: bool = True,
) -> tuple[float, dict[str, Tensor]]:
    """Mean cross-entropy with these weights in place, and its gradients; those that do not matter are left out."""
    leaves = {name: weight.detach().requires_grad_(gradient) for name, weight in weights.items()}
    total = labels.new_zeros((), dtype=_sums_in(labels.device))
    slopes: dict[str, Tensor] = {}
    with torch.set_grad_enabled(gradient):
        for pixels, targets in zip(images.split(at_once), labels.split(at_once), strict=True):
            with _replaced(model, leaves):
                logits = model(pixels)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, targets, reduction="sum") / len(labels)
            total = total + loss.detach()
            if gradient:
                parts = loss_gradients(loss, list(leaves.values()), allow_unused=True)
                for name, part in zip(leaves, parts, strict=True):
                    if part is not None:
                        slopes[name] = slopes[name] + part if name in slopes else part
    return float(total), slopes


@contextmanager
def _replaced(model: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """Put other tensors in the place of parameters for the block, wherever the model holds them.

    ``torch.func.functional_call`` leaves its tensors behind in a module that is reached by two names.
    """
    new = {id(model.get_parameter(name)): weight for name, weight in weights.items()}
    places = [
        (part._parameters, name, parameter)
        for part in model.modules()
        for name, parameter in part._parameters.items()
        if id(parameter) in new
    ]
    try:
        for parameters, name, parameter in places:
            parameters[name] = new[id(parameter)]  # type: ignore[assignment]  # a module calls what is there
        yield
    finally:
        for parameters, name, parameter in places:
            parameters[name] = parameter


def redundant_layers(contributions: dict[str, float], fraction: float) -> list[str]:
    """Return the ``fraction`` of layers that contribute least to robustness, at least one, least first."""
    return sorted(contributions, key=lambda name: contributions[name])[: _count(fraction, len(contributions))]


def _count(fraction: float, layers: int) -> int:
    return max(1, int(fraction * layers))
