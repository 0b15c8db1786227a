"""Sign steps up the loss, each input by itself: what PGD, the mixture and the guard of stage 2 have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.precision import loss_gradients
from genaf_sdk.settings import Count, Epsilon, Settings


@dataclass(frozen=True)
class SignSteps(Settings):
    """How far inputs are moved, and in how many steps."""

    epsilon: Epsilon = 8 / 255
    """L_inf budget."""
    step_size: Epsilon = 10 / 255
    """How far a step moves every pixel, before it is cut to the budget."""
    steps: Count = 1
    """Each costs a pass forward and back."""

    def within(self, budget: float) -> Self:
        """Return these settings with so large a share of the budget."""
        return self if budget == 1 else replace(self, epsilon=budget * self.epsilon)


def at_least_one(*columns: Tensor) -> tuple[Tensor, ...]:
    """Return tensors (n, ...) as they are; where n is 0, one row of zeros each: not every encoder takes no images.

    What is computed of that row is dropped. It is there because several processes call the model equally often.
    """
    return columns if len(columns[0]) else tuple(column.new_zeros(1, *column.shape[1:]) for column in columns)


def ascend(model: nn.Module, inputs: Tensor, target: Tensor, start: Tensor, steps: SignSteps) -> tuple[Tensor, Tensor]:
    """Climb the cross-entropy by sign steps, in eval mode, within an L_inf ball and the range of valid inputs.

    Batch norms are folded into the convolutions before them, where there are such; the same but for rounding.

    Args:
        model: Inputs to logits.
        inputs: Valid ones, (n, *shape).
        target: Classes (n,), or probabilities (n, K).
        start: Where to start, (n, *shape); may lie outside the ball.
        steps: Radius of the ball, length and number of the steps.

    Returns:
        The adversarial inputs, and the gradient at the start, both (n, *shape).
    """
    first, count = torch.empty(0), len(inputs)
    space, threat = input_space(model, inputs), Linf(steps.epsilon)
    with inference_mode_of(model), folded_batch_norms(model, inputs), torch.enable_grad():
        inputs, target, start = at_least_one(inputs, target, start)
        adversarial = space.clip(inputs + start)
        for step in range(steps.steps):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(model(adversarial).float(), target, reduction="sum")
            (gradient,) = loss_gradients(loss, [adversarial])
            first = gradient if step == 0 else first
            delta = threat.project(adversarial.detach() + steps.step_size * gradient.sign() - inputs)
            adversarial = space.clip(inputs + delta)
    return adversarial.detach()[:count], first[:count]


def input_gradient(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the gradient (n, *shape) of the cross-entropy of each input, in eval mode; as for ``ascend``."""
    with inference_mode_of(model), folded_batch_norms(model, inputs), torch.enable_grad():
        images, classes = at_least_one(inputs, target)
        variable = images.detach().requires_grad_()
        loss = F.cross_entropy(model(variable).float(), classes, reduction="sum")
        (gradient,) = loss_gradients(loss, [variable])
    return gradient[: len(inputs)]
