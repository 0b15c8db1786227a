"""PGD as an adversary of training: every input gets a perturbation of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.threat import Linf
from genaf_sdk.methods.against import ADVERSARIES, Against, budget_at
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.settings import Count, Epsilon, Share

if TYPE_CHECKING:
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes


@ADVERSARIES.register
@dataclass(frozen=True)
class PGD(Against):
    """Sign steps from a random start (Madry et al., ICLR 2018)."""

    name: ClassVar[str] = "pgd"

    epsilon: Epsilon = 8 / 255
    """L_inf budget."""
    step_size: Epsilon = 10 / 255
    """How far a step moves every pixel, before it is cut to the budget."""
    steps: Count = 1
    """Each costs a pass forward and back."""
    away_from: Literal["label", "prediction"] = "label"
    """What a step moves away from: the ``label``, or the ``prediction`` on the clean input, whatever the label (TRADES,
    Zhang et al., ICML 2019). The cross-entropy with the clean probabilities and the divergence from them have the same
    gradient."""
    ramp: Share = 0.9
    """Share of the training in which the budget rises, linearly; within a mixture, that one's counts."""

    def within(self, budget: float) -> PGD:
        """Return these settings with so large a share of the budget."""
        return self if budget == 1 else replace(self, epsilon=budget * self.epsilon)

    def adversary(self, key: int, processes: Processes) -> Adversary:
        """Return the adversary; it keeps nothing, and so needs neither ``key`` nor ``processes``."""
        del key, processes
        return PGDAdversary(self)


class PGDAdversary(Adversary):
    """Perturbs every input by itself, in eval mode."""

    def __init__(self, settings: PGD) -> None:
        self.settings, self.budget = settings, 1.0

    def begin(self, done: float) -> None:
        """Set the budget of this step."""
        self.budget = budget_at(done, self.settings.ramp)

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return inputs perturbed within the budget."""
        pgd, inputs = self.settings.within(self.budget), batch.inputs
        start = batch.uniform("start", tuple(inputs.shape[1:]), -pgd.epsilon, pgd.epsilon)
        target = batch.labels if pgd.away_from == "label" else _predicted(model, inputs)
        adversarial, _ = ascend(model, inputs, target, start, pgd)
        return adversarial


@torch.no_grad()
def _predicted(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the probabilities (n, K) of the clean inputs."""
    with inference_mode_of(model):
        logits: Tensor = model(inputs)
    return logits.float().softmax(dim=1)


def ascend(model: nn.Module, inputs: Tensor, target: Tensor, start: Tensor, pgd: PGD) -> tuple[Tensor, Tensor]:
    """Climb the cross-entropy by sign steps, in eval mode, within an L_inf ball and the range of valid inputs.

    Batch norms are folded into the convolutions before them, where there are such; the same but for rounding.

    Args:
        model: Inputs to logits.
        inputs: Valid ones, (n, *shape).
        target: Classes (n,), or probabilities (n, K).
        start: Where to start, (n, *shape); may lie outside the ball.
        pgd: Radius of the ball, length and number of the steps.

    Returns:
        The adversarial inputs, and the gradient at the start, both (n, *shape).
    """
    first = torch.empty(0)
    space, threat = input_space(model, inputs), Linf(pgd.epsilon)
    with inference_mode_of(model), folded_batch_norms(model, inputs), torch.enable_grad():
        adversarial = space.clip(inputs + start)
        for step in range(pgd.steps):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(model(adversarial).float(), target, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            first = gradient if step == 0 else first
            delta = threat.project(adversarial.detach() + pgd.step_size * gradient.sign() - inputs)
            adversarial = space.clip(inputs + delta)
    return adversarial.detach(), first
