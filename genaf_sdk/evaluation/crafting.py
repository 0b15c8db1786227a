"""Crafting: every attack on encoders or on labeled images, from every source of images, each in a row of its own."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from genaf_sdk.attacks.base import (
    Attack,
    EncoderAttack,
    FeatureAttack,
    SampleWise,
    SampleWiseAttack,
    UniversalModelAttack,
)
from genaf_sdk.attacks.registry import load_attack, parsed
from genaf_sdk.errors import AttackError, RunStoppedError
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.inputs.keys import Knowledge, PerturbationKey
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.scores import Failure, Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from genaf_sdk.evaluation.settings import EvaluationConfig
    from genaf_sdk.inputs.threat import Threat

logger = logging.getLogger(__name__)
JUDGING = 512
"""On how many training images what is known already is compared."""


@dataclass
class Row:
    """One row of the report on its way: what is put on the images of one model, and what the model then says.

    Args:
        model: Whose row it is.
        column: What the attacker knows.
        attack: The attack; None for clean images and replayed perturbations.
        perturbation: What is put on every image; None for clean images and sample-wise attacks.
        source: Which images were crafted on.
        predicted: Class of each image (N,), once it is known.
        seconds: Time to craft.
    """

    model: EvaluatedModel
    column: Knowledge
    attack: Attack | None = None
    perturbation: Perturbation | None = None
    source: str = ""
    predicted: Tensor | None = None
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Name of the attack; empty for clean images."""
        if self.attack is not None:
            return self.attack.name
        return self.perturbation.attack or "unnamed" if self.perturbation is not None else ""

    @property
    def is_sample_wise(self) -> bool:
        """Whether every image is perturbed by itself."""
        return self.attack is not None and self.perturbation is None


def chosen_attacks(attacks: Sequence[str | Attack], config: EvaluationConfig) -> list[Attack]:
    """Return attacks with the budgets of ``config``; one that is given as an object or states its budget keeps it.

    Those that need less knowledge come first, so that the others can start from what these found.

    Raises:
        AttackError: A name or a setting is unknown.
    """
    chosen = []
    for given in attacks:
        attack = load_attack(given)
        if isinstance(given, str) and "budget" not in parsed(given)[1] and not attack.is_patch:
            sample_wise = isinstance(attack, SampleWise)
            attack = attack.with_budget(config.sample_wise_budget if sample_wise else config.perturbation_budget)
        chosen.append(attack)
    kinds = EncoderAttack, UniversalModelAttack, SampleWise
    return sorted(chosen, key=lambda attack: next(i for i, kind in enumerate(kinds) if isinstance(attack, kind)))


@dataclass
class Crafting:
    """Crafts perturbations for the models of one evaluation, names them, and keeps them once.

    Args:
        models: Those under test; the first is the hardened one.
        public: The published encoder, or None.
        sources: Images (N, C, H, W) in [0, 1] that the attacker may have, by name, its own first; ``train`` is there.
        labels: Classes of the training images (N,).
        seed: Of every random choice.
        on_attack: Called with a line of text before each attack.
        perturbations: What was crafted, by name.
        failures: What could not be.
    """

    models: list[EvaluatedModel]
    public: nn.Module | None
    sources: dict[str, Tensor]
    labels: Tensor
    seed: int
    on_attack: Callable[[str], object]
    perturbations: dict[str, Perturbation] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def costs_a_row(self, name: str, column: str, model: Role | str = "") -> Iterator[None]:
        """Context: what fails in it, whatever it is, costs this row alone and is named in the report."""
        try:
            yield
        except RunStoppedError:
            raise
        except Exception as error:
            reason = str(error) if isinstance(error, AttackError) else f"{type(error).__name__}: {error}"
            self.failures.append(Failure("attack", name, " ".join(reason.split())[:500], str(column), str(model)))
            logger.warning("%s", self.failures[-1].text)
            logger.debug("%s", name, exc_info=error)

    def rows(self, attack: Attack) -> Iterator[Row]:
        """Yield the rows of one attack; those of attacks that give one perturbation are crafted."""
        if isinstance(attack, EncoderAttack):
            yield from self.transferred(attack)
            yield from self._adaptive(attack, self._transferred_by(attack))
            return
        if isinstance(attack, FeatureAttack):
            if self.public is not None:
                yield from (Row(model, Knowledge.TRANSFER, attack, source="test") for model in self.models)
            known = (model for model in self.models if model.encoder is not None)
            yield from (Row(model, Knowledge.ADAPTIVE, attack, source="test") for model in known)
            return
        for model in self.models:
            if model.module is None and (attack.needs_gradient or not isinstance(attack, SampleWiseAttack)):
                needs = "gradients" if attack.needs_gradient else "a module"
                self.notes.append(
                    f"{attack.name} was not run: it needs {needs}, and the {model.name} model is a callable."
                )
            elif isinstance(attack, UniversalModelAttack) and model.module is not None:
                yield from self._white_box(attack, model, model.module)
            else:
                yield Row(model, Knowledge.WHITE_BOX, attack, source="test")

    def noise(self, attack: Attack) -> Iterator[Row]:
        """Yield the rows of random noise, which no source of images and no encoder changes."""
        source, images = next(iter(self.sources.items()))
        if isinstance(attack, EncoderAttack):
            with self.costs_a_row(attack.name, Knowledge.NOISE):
                found = self.keep(attack(nn.Identity(), images, seed=self.seed), Knowledge.NOISE, attack.name)
                yield from (self._row(model, Knowledge.NOISE, attack, found, source) for model in self.models)

    def replayed(self, perturbations: dict[str, Perturbation], shape: tuple[int, ...]) -> Iterator[Row]:
        """Yield the rows of saved perturbations.

        Raises:
            AttackError: One is for images of another shape.
        """
        for name, perturbation in perturbations.items():
            if tuple(perturbation.values.shape) != shape:
                raise AttackError(
                    f"The perturbation {name!r} is for images of shape {tuple(perturbation.values.shape)}.",
                    expected=f"{shape}, as the test images",
                    remedy="craft it anew at this image size",
                )
            key = replace(perturbation.key, knowledge=Knowledge.TRANSFER, label=name)
            found = self._kept(replace(perturbation, key=key))
            for model in self.models:
                yield Row(model, Knowledge.TRANSFER, None, found, "replayed", seconds=_seconds(found))

    def keep(
        self, perturbation: Perturbation, column: Knowledge, attack: str, model: str = "", source: str = ""
    ) -> Perturbation:
        """Give a perturbation its key, told from those of the same attack with other settings, and keep it."""
        images = source if len(self.sources) > 1 else ""
        run = 1
        while str(PerturbationKey(column, attack, model, images, run)) in self.perturbations:
            run += 1
        return self._kept(replace(perturbation, key=PerturbationKey(column, attack, model, images, run)))

    def _kept(self, perturbation: Perturbation) -> Perturbation:
        self.perturbations[str(perturbation.key)] = perturbation
        return perturbation

    def transferred(self, attack: EncoderAttack) -> Iterator[Row]:
        """Yield the rows of what is crafted once, on the published encoder from the attacker's own images."""
        if self.public is None:
            return
        source, images = next(iter(self.sources.items()))
        self.on_attack(f"transfer: {attack.name}")
        with self.costs_a_row(attack.name, Knowledge.TRANSFER):
            found = self.craft(attack, self.public, images)
            found = self.keep(found, Knowledge.TRANSFER, attack.name, source=source)
            yield from (self._row(model, Knowledge.TRANSFER, attack, found, source) for model in self.models)

    def _transferred_by(self, attack: EncoderAttack) -> Perturbation | None:
        """Return what the attack made of the published encoder, here or in an evaluation whose result is replayed."""
        known = [
            found
            for found in self.perturbations.values()
            if found.key.knowledge == Knowledge.TRANSFER
            and found.key.attack == attack.name
            and found.threat == attack.threat
        ]
        return known[-1] if known else None

    def _adaptive(self, attack: EncoderAttack, start: Perturbation | None) -> Iterator[Row]:
        """Crafted on each model's own encoder, from ``start``, which the attacker has already."""
        for model in self.models:
            if model.encoder is None:
                continue
            for source, images in self.sources.items():
                self.on_attack(f"adaptive: {attack.name} ({model.name})")
                with self.costs_a_row(attack.name, Knowledge.ADAPTIVE, model.name):
                    found = self.craft(attack, model.encoder, images, model, start)
                    found = self.keep(found, Knowledge.ADAPTIVE, attack.name, str(model.name), source)
                    yield self._row(model, Knowledge.ADAPTIVE, attack, found, source)

    def _white_box(self, attack: UniversalModelAttack, model: EvaluatedModel, module: nn.Module) -> Iterator[Row]:
        self.on_attack(f"white-box: {attack.name} ({model.name})")
        with self.costs_a_row(attack.name, Knowledge.WHITE_BOX, model.name):
            pixels, labels = self.sources["train"].to(model.device), self.labels.to(model.device)
            found = attack(module, pixels, labels, seed=self.seed, start=self.strongest(attack.threat, model))
            found = self.keep(found, Knowledge.WHITE_BOX, attack.name, str(model.name))
            yield self._row(model, Knowledge.WHITE_BOX, attack, found, "train")

    def craft(
        self,
        attack: EncoderAttack,
        encoder: nn.Module,
        images: Tensor,
        model: EvaluatedModel | None = None,
        start: Perturbation | None = None,
    ) -> Perturbation:
        """Craft on ``encoder`` from images (N, C, H, W) in [0, 1], on the device of a model, perhaps from ``start``."""
        device = (model or self.models[0]).device
        return attack(encoder.to(device), images.to(device), seed=self.seed, start=start)

    def strongest(self, threat: Threat, model: EvaluatedModel) -> Perturbation | None:
        """Return what was crafted under ``threat`` and leaves ``model`` fewest images right; None if nothing.

        The attacker who knows the whole model starts from there.
        """
        own = ("", str(model.name))
        known = [
            found
            for found in self.perturbations.values()
            if found.threat == threat and found.key.knowledge != Knowledge.NOISE and found.key.model in own
        ]
        pixels, labels = self.sources["train"][:JUDGING], self.labels[:JUDGING]
        return min(known, key=lambda found: int((model.predict(found.apply(pixels)) == labels).sum()), default=None)

    @staticmethod
    def _row(model: EvaluatedModel, column: Knowledge, attack: Attack, found: Perturbation, source: str) -> Row:
        return Row(model, column, attack, found, source, seconds=_seconds(found))


def transferred_perturbations(
    encoder: nn.Module, images: Tensor, labels: Tensor, attacks: Sequence[Attack], seed: int
) -> dict[str, Perturbation]:
    """Return what ``evaluate`` crafts on a published encoder, by name; an attack that fails is missing.

    Args:
        encoder: The published encoder.
        images: The attacker's images (N, C, H, W) in [0, 1].
        labels: Their classes (N,), which no attack on an encoder sees.
        attacks: As ``chosen_attacks`` gives them; those that are not on encoders are passed over.
        seed: Of every random choice.
    """
    under_test = EvaluatedModel.of(encoder, Role.HARDENED)
    crafting = Crafting([under_test], encoder, {"train": images}, labels, seed, str)
    for attack in attacks:
        if isinstance(attack, EncoderAttack):
            deque(crafting.transferred(attack), maxlen=0)
    return crafting.perturbations


def _seconds(perturbation: Perturbation) -> float:
    seconds = perturbation.details.get("seconds")
    return float(seconds) if isinstance(seconds, (int, float)) else 0.0
