"""AutoAttack, run by the optional package adversarial-robustness-toolbox."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from genaf_sdk.attacks.randomness import global_random
from genaf_sdk.attacks.registry import register
from genaf_sdk.attacks.sample_wise import SampleWiseAttack
from genaf_sdk.errors import AttackError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.attacks.base import Classifier


@register
@dataclass(frozen=True)
class AutoAttack(SampleWiseAttack):
    """The ensemble APGD-CE, APGD on the DLR loss, DeepFool and Square, each on what the one before left right.

    The package has DeepFool where the publication has FAB, and an untargeted APGD-DLR where it has a targeted one
    (``apgd-t`` here); one restart each, as published. Slow: for a few hundred images. Native budget 8/255.
    """

    name = "autoattack"
    draws_from_torch = True
    source = "Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble, ICML 2020"

    def require(self, target: nn.Module, pixels: Tensor, classes: int) -> None:
        """Refuse to begin where the package is missing."""
        super().require(target, pixels, classes)
        self._packages()

    def passes(self, images: int) -> float:
        """Return those of the two gradient attacks, of DeepFool for ten classes, and of the queries of Square."""
        return images * (100 + 100 + 100 * 10 + 5000 / 3)

    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Hand the batch to the package."""
        evasion, estimators = self._packages()
        if not isinstance(model, nn.Module):
            raise AttackError(
                f"{self.name!r} was given a {type(model).__name__}.", expected="a torch module", remedy="use 'square'"
            )
        with seeded(int(torch.randint(2**31, (1,), generator=generator))):
            ensemble = self._ensemble(evasion, estimators, model, pixels)
            adversarial = ensemble.generate(pixels.cpu().numpy(), labels.cpu().numpy())
        return torch.from_numpy(adversarial).to(pixels)

    def _packages(self) -> tuple[Any, Any]:
        try:
            return import_module("art.attacks.evasion"), import_module("art.estimators.classification")
        except ImportError as error:
            raise AttackError(
                f"{self.name!r} needs the package adversarial-robustness-toolbox: {error}.",
                remedy="pip install 'genaf-sdk[autoattack]'",
            ) from error

    def _ensemble(self, evasion: Any, estimators: Any, model: nn.Module, pixels: Tensor) -> Any:
        with torch.no_grad():
            classes = model(pixels[:1]).shape[1]
        classifier = estimators.PyTorchClassifier(
            _Outputs(model),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(pixels.shape[1:]),
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if pixels.is_cuda else "cpu",
        )
        height, width = pixels.shape[2:]
        first_square = min(0.8, (min(height, width) - 1) ** 2 / (height * width))  # the package fails on larger ones
        common = {"eps": self.budget, "norm": np.inf, "batch_size": len(pixels), "verbose": False}
        apgd = {**common, "eps_step": 2 * self.budget, "max_iter": 100, "nb_random_init": 1}
        return evasion.AutoAttack(
            classifier,
            eps=self.budget,
            batch_size=len(pixels),
            attacks=[
                evasion.AutoProjectedGradientDescent(classifier, loss_type="cross_entropy", **apgd),
                evasion.AutoProjectedGradientDescent(classifier, loss_type="difference_logits_ratio", **apgd),
                evasion.DeepFool(classifier, max_iter=100, epsilon=1e-3, batch_size=len(pixels), verbose=False),
                evasion.SquareAttack(classifier, max_iter=5000, p_init=first_square, nb_restarts=1, **common),
            ],
        )


class _Outputs(nn.Module):
    """The model without its parameters: the package clears the gradients of those it finds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.hidden = (model,)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.hidden[0](pixels)
        return logits


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context: the global generators of numpy and torch, which the package draws from, run from ``seed``."""
    with global_random(seed):
        before = np.random.get_state()  # noqa: NPY002  # the package uses no other
        try:
            np.random.seed(seed)  # noqa: NPY002
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002
