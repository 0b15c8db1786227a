"""PGD as an adversary of training: every input gets a perturbation of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.methods.against import ADVERSARIES, Against
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.settings import Count, Epsilon

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
    steps: Count = 1
    away_from: Literal["label", "prediction"] = "label"
    """What a step moves away from: the ``label``, or the ``prediction`` on the clean input, whatever the label (TRADES,
    Zhang et al., ICML 2019). The cross-entropy with the clean probabilities and the divergence from them have the same
    gradient."""

    def adversary(self, key: int, processes: Processes) -> Adversary:
        """Return the adversary; it keeps nothing."""
        del key, processes
        return PGDAdversary(self)


class PGDAdversary(Adversary):
    """Perturbs every input by itself, in eval mode."""

    def __init__(self, settings: PGD) -> None:
        self.settings = settings

    def perturb(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return inputs perturbed within the budget."""
        pgd, inputs = self.settings, batch.inputs
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

    Args:
        model: Inputs to logits.
        inputs: Images (n, C, H, W) in [0, 1].
        target: Classes (n,), or probabilities (n, K).
        start: Where to start, (n, C, H, W); may lie outside the ball.
        pgd: Radius of the ball, length and number of the steps.

    Returns:
        The adversarial images, and the gradient at the start (both (n, C, H, W)).
    """
    first = torch.empty(0)
    with inference_mode_of(model), torch.enable_grad():
        adversarial = (inputs + start).clamp(0, 1)
        for step in range(pgd.steps):
            adversarial = adversarial.detach().requires_grad_()
            loss = F.cross_entropy(model(adversarial).float(), target, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, adversarial)
            first = gradient if step == 0 else first
            delta = (adversarial.detach() + pgd.step_size * gradient.sign() - inputs).clamp(-pgd.epsilon, pgd.epsilon)
            adversarial = (inputs + delta).clamp(0, 1)
    return adversarial.detach(), first
