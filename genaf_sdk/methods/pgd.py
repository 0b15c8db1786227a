"""PGD as an adversary of training: every input gets a perturbation of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from genaf_sdk.engine.adversary import Adversary
from genaf_sdk.methods.against import ADVERSARIES, Against, budget_at
from genaf_sdk.methods.steps import SignSteps, ascend
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.settings import Share

if TYPE_CHECKING:
    from genaf_sdk.engine.batches import Batch
    from genaf_sdk.engine.processes import Processes


@ADVERSARIES.register
@dataclass(frozen=True)
class PGD(SignSteps, Against):
    """Sign steps from a random start (Madry et al., ICLR 2018)."""

    name: ClassVar[str] = "pgd"

    away_from: Literal["label", "prediction"] = "label"
    """What a step moves away from: the ``label``, or the ``prediction`` on the clean input, whatever the label (TRADES,
    Zhang et al., ICML 2019). The cross-entropy with the clean probabilities and the divergence from them have the same
    gradient."""
    ramp: Share = 0.9
    """Share of the training in which the budget rises, linearly."""

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
