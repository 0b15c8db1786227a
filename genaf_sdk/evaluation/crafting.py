"""Crafting: every attack on encoders or on labeled images, from every source of images, each in a row of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from genaf_sdk.attacks.base import Attack, EncoderAttack, UniversalModelAttack
from genaf_sdk.attacks.sample_wise import FeatureAttack, SampleWise, SampleWiseAttack
from genaf_sdk.errors import AttackError, RunStoppedError
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.row import Begun, Row
from genaf_sdk.inputs.keys import Knowledge, PerturbationKey
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.scores import Failure, Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from genaf_sdk.evaluation.workers import Own, Workers
    from genaf_sdk.inputs.threat import Threat

logger = logging.getLogger(__name__)
JUDGING = 512
"""On how many training images what is known already is compared."""


@dataclass
class Crafting:
    """Crafts perturbations for the models of one evaluation, names them, and keeps them once.

    Args:
        models: Those under test; the first is the hardened one.
        public: The published encoder, or None.
        sources: Images (N, C, H, W) in [0, 1] that the attacker may have, by name, its own first; ``train`` is there.
            They go to the device of the first model once: every attack is given the same tensors, so that
            ``sharing_features`` knows them, and none keeps a copy there.
        labels: Classes of the training images (N,).
        seed: Of every random choice.
        on_attack: Called with a line of text before each attack.
        perturbations: What was crafted, by name.
        failures: What could not be.
        known: What there was before anything was begun.
        begun: What is crafted, in the order in which it was begun.
        ahead: What was begun before, on the same images and by the same seed, and is not begun again.
        kept: What an evaluation that was stopped had crafted already.
        seeds: How many seeds, from ``seed`` on, each attack is crafted by.
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
    known: tuple[Perturbation, ...] = ()
    begun: list[Begun] = field(default_factory=list)
    ahead: tuple[Begun, ...] = ()
    kept: Kept = field(default_factory=Kept)
    seeds: int = 1
    _counts: dict[tuple[int, str], tuple[Perturbation, int]] = field(default_factory=dict)
    _turns: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        device = self.models[0].device
        self.sources = {name: images.to(device) for name, images in self.sources.items()}

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

    def begin(self, chosen: Sequence[Attack], workers: Workers) -> list[Begun]:
        """Have every perturbation for all images crafted; return them attack by attack, to be ``finished``.

        What others start from is begun before them.
        """
        self.known = tuple(self.perturbations.values())
        parts = (self.begin_transferred, self._begin_adaptive, self._begin_white_box)
        for part in parts:
            for attack in chosen:
                self.begun += part(attack, workers)
        return sorted(self.begun, key=lambda one: chosen.index(one.attack))

    def finished(self, begun: Begun, workers: Workers) -> Iterator[Row]:
        """Wait for an attack; yield rows of what leaves a model fewest training images right, for all of its models.

        Where several tries are each the strongest against one model, every model gets a row of each: what is kept says
        what it does to all. There is no row where the attack failed.
        """
        with self.costs_a_row(begun.attack.name, begun.column, begun.owner):
            images = "" if begun.column == Knowledge.WHITE_BOX else begun.source
            tries = self._tries(begun)
            against_each = (self._strongest_of(tries, model, workers) for model in begun.models)
            strongest = {id(found): found for found in against_each}
            for found in strongest.values():
                if len(tries) > 1:
                    found = replace(found, details={**found.details, "tries": len(tries)})
                kept = self.keep(found, begun.column, begun.attack.name, begun.owner, images)
                yield from (self._row(model, begun.column, begun.attack, kept, begun.source) for model in begun.models)

    def rows(self, attack: Attack) -> Iterator[Row]:
        """Yield the rows of an attack that perturbs every image by itself, which are filled in later."""
        if isinstance(attack, FeatureAttack):
            if self.public is not None:
                yield from (Row(model, Knowledge.TRANSFER, attack, source="test") for model in self.models)
            known = (model for model in self.models if model.encoder is not None)
            yield from (Row(model, Knowledge.ADAPTIVE, attack, source="test") for model in known)
        elif isinstance(attack, SampleWise):
            able = (model for model in self.models if self._is_able(attack, model))
            yield from (Row(model, Knowledge.WHITE_BOX, attack, source="test") for model in able)

    def _is_able(self, attack: Attack, model: EvaluatedModel) -> bool:
        """Return whether an attack on whole models can be run on this one; if not, a note says so."""
        if model.module is not None or (isinstance(attack, SampleWiseAttack) and not attack.needs_gradient):
            return True
        needs = "gradients" if attack.needs_gradient else "a module"
        self.notes.append(f"{attack.name} was not run: it needs {needs}, and the {model.name} model is a callable.")
        return False

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
                yield Row(model, Knowledge.TRANSFER, None, found, "replayed", seconds=found.seconds)

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

    def begin_transferred(self, attack: Attack, workers: Workers) -> Iterator[Begun]:
        """Crafted once, on the published encoder from the attacker's own images."""
        if self.public is not None and isinstance(attack, EncoderAttack):
            source, images = next(iter(self.sources.items()))
            text = f"transfer: {attack.name}"
            future = self._ahead(Knowledge.TRANSFER, attack, source)
            future = future or self.craft(workers, text, attack, self.public, images, seeds=self.seeds)
            yield Begun(Knowledge.TRANSFER, attack, tuple(self.models), source, future)

    def _begin_adaptive(self, attack: Attack, workers: Workers) -> Iterator[Begun]:
        """Crafted on each model's own encoder, from what the attack made of the published one."""
        if not isinstance(attack, EncoderAttack):
            return
        start = partial(self._transferred_by, attack)
        for model in self.models:
            if model.encoder is None:
                continue
            for source, images in self.sources.items():
                text = f"adaptive: {attack.name} ({model.name})"
                future = self._ahead(Knowledge.ADAPTIVE, attack, source, model.name)
                future = future or self.craft(workers, text, attack, model.encoder, images, model, start, self.seeds)
                yield Begun(Knowledge.ADAPTIVE, attack, (model,), source, future, model.name)

    def _begin_white_box(self, attack: Attack, workers: Workers) -> Iterator[Begun]:
        """Crafted on each whole model, from the strongest perturbation of the same kind."""
        if not isinstance(attack, UniversalModelAttack):
            return
        for model in self.models:
            if not self._is_able(attack, model) or model.module is None:
                continue
            pixels, labels = self.sources["train"].to(model.device), self.labels.to(model.device)
            work = partial(self._with_labels, attack, model, model.module, pixels, labels, tuple(self.begun))
            future = self._ahead(Knowledge.WHITE_BOX, attack, "train", model.name) or workers.submit(work)
            yield Begun(Knowledge.WHITE_BOX, attack, (model,), "train", future, model.name)

    def _ahead(
        self, column: Knowledge, attack: Attack, source: str, owner: str = ""
    ) -> Future[list[Perturbation]] | None:
        return next((one.future for one in self.ahead if one.is_same(column, attack, source, owner)), None)

    def _with_labels(
        self, attack: UniversalModelAttack, model: EvaluatedModel, module: nn.Module, pixels: Tensor, labels: Tensor,
        earlier: tuple[Begun, ...], own: Own,
    ) -> list[Perturbation]:  # fmt: skip
        start = self.strongest(attack.threat, model, own, earlier)
        self.announce(f"white-box: {attack.name} ({model.name})")
        target, given = own(module), (pixels, labels)
        starts: dict[int, Perturbation | None] = dict.fromkeys(range(self.seed, self.seed + self.seeds), start)
        made = self.kept.by_seeds(
            attack, target, given, starts, lambda seed, begin: [attack(target, *given, seed=seed, start=begin)]
        )
        if start is None or min(self._right(found, model, own) for found in made) <= self._right(start, model, own):
            return made
        # Its few held-out images preferred another place: who has labels counts on more, and stays where it began.
        details = {name: value for name, value in start.details.items() if name != "tries"}
        return [replace(start, details=details | {"seconds": made[0].seconds})]

    def _transferred_by(self, attack: EncoderAttack, seed: int) -> Perturbation | None:
        """Return what the attack made of the published encoder, here or in an evaluation whose result is replayed."""
        here = (one.made() for one in self.begun if one.column == Knowledge.TRANSFER and one.attack == attack)
        found = next((made[(seed - self.seed) * len(made) // self.seeds] for made in here if made), None)
        replayed = [
            known
            for known in self.known
            if known.key.knowledge == Knowledge.TRANSFER
            and known.key.attack == attack.name
            and known.threat == attack.threat
        ]
        return found or (replayed[-1] if replayed else None)

    def craft(
        self,
        workers: Workers,
        text: str,
        attack: EncoderAttack,
        encoder: nn.Module,
        images: Tensor,
        model: EvaluatedModel | None = None,
        start: Callable[[int], Perturbation | None] = lambda _: None,
        seeds: int = 1,
    ) -> Future[list[Perturbation]]:
        """Have the tries of an attack crafted on ``encoder`` from images (N, C, H, W) in [0, 1], where a model is.

        Args:
            workers: Who does it.
            text: Announced before.
            attack: What crafts.
            encoder: Pixels to features.
            images: (N, C, H, W) in [0, 1].
            model: On whose device; that of the first by default.
            start: Called with each seed once the attack's turn comes: what to begin with, for which it may wait.
            seeds: How many.
        """
        device = (model or self.models[0]).device

        def work(own: Own) -> list[Perturbation]:
            starts = {seed: start(seed) for seed in range(self.seed, self.seed + seeds)}
            self.announce(text)
            target, given = own(encoder).to(device), images.to(device)
            return self.kept.by_seeds(
                attack, target, (given,), starts,
                lambda seed, begin: attack.tries(target, given, seed=seed, start=begin),
            )  # fmt: skip

        return workers.submit(work)

    def announce(self, text: str) -> None:
        """Call ``on_attack``, for one worker after the other."""
        with self._turns:
            self.on_attack(text)

    def strongest(
        self, threat: Threat, model: EvaluatedModel, own: Own, earlier: Sequence[Begun]
    ) -> Perturbation | None:
        """Return what leaves ``model`` fewest images right of what is known under ``threat``; None if nothing is.

        The attacker who knows the whole model starts from there. What was begun ``earlier`` is waited for; ``own``
        gives the worker's copy of a module.
        """
        owners = ("", str(model.name))
        known = [
            found
            for found in self.known
            if found.threat == threat and found.key.knowledge != Knowledge.NOISE and found.key.model in owners
        ]
        alike = (one for one in earlier if one.attack.threat == threat and str(one.owner) in owners)
        known += [made for one in alike for made in one.made()]
        return min(known, key=lambda found: self._right(found, model, own), default=None)

    def _tries(self, begun: Begun) -> list[Perturbation]:
        """Return the tries of an attack; of several, who knows the hardened encoder has those on the public one, too.

        An attack of one try may begin at what it made of the public encoder instead.
        """
        tries = begun.future.result()
        if begun.column != Knowledge.ADAPTIVE:
            return tries
        alike = (one for one in self.begun if one.is_same(Knowledge.TRANSFER, begun.attack, begun.source, ""))
        transferred = [found for one in alike for found in one.made()]
        return tries if len(tries) == 1 and len(transferred) <= 1 else [*tries, *transferred]

    def _strongest_of(self, tries: list[Perturbation], model: EvaluatedModel, workers: Workers) -> Perturbation:
        if len(tries) == 1:
            return tries[0]
        return workers.submit(lambda own: min(tries, key=lambda found: self._right(found, model, own))).result()

    def _right(self, found: Perturbation, model: EvaluatedModel, own: Own) -> int:
        """Return how many training images the model gets right under a perturbation."""
        key = id(found), model.name
        if key not in self._counts:
            pixels, labels = self.sources["train"][:JUDGING], self.labels[:JUDGING]
            right = int((model.copied(own).predict(found.apply(pixels)) == labels).sum())
            self._counts[key] = found, right  # it is kept, or another one could come to have its id
        return self._counts[key][1]

    @staticmethod
    def _row(model: EvaluatedModel, column: Knowledge, attack: Attack, found: Perturbation, source: str) -> Row:
        return Row(model, column, attack, found, source, seconds=found.seconds)
