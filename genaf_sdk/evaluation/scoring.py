"""Scoring: one pass over the test images, batch by batch, in which every model sees every perturbation."""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from genaf_sdk.attacks.base import Attack
from genaf_sdk.attacks.sample_wise import FeatureAttack, SampleWiseAttack
from genaf_sdk.data.sampling import Sample
from genaf_sdk.errors import DataError
from genaf_sdk.evaluation.crafting import Crafting
from genaf_sdk.evaluation.workers import done
from genaf_sdk.inputs.images import image_space
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.memory import give_back
from genaf_sdk.report.scores import CurvePoint, Score

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from genaf_sdk.evaluation.model import EvaluatedModel
    from genaf_sdk.evaluation.row import Row
    from genaf_sdk.evaluation.workers import Own, Workers
    from genaf_sdk.inputs.perturbation import Perturbation

T = TypeVar("T")
Attacked = tuple[Tensor, float]
"""Images under attack, and the seconds that it took."""
Place = tuple[str, Attack | None]
"""Model, or none where images transfer to all, and attack."""


@dataclass
class Scoring:
    """Says what the models say, and counts it.

    Args:
        sample: Test images in the evaluation's order.
        few: How many of the first of them sample-wise attacks are scored on.
        fewer: The same for patches, which cost more; at most as many.
        crafting: Where failures are noted; its seed is that of sample-wise attacks.
        clean: Class of each clean image (N,), by name of the model.
        ahead: What was begun before, on the same images and by the same seed, and is not begun again.
    """

    sample: Sample
    few: int
    fewer: int
    crafting: Crafting
    clean: dict[str, Tensor] = field(default_factory=dict)
    ahead: dict[Place, Future[Attacked]] = field(default_factory=dict)
    _begun: dict[int, Future[Attacked]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels, labels = self.sample.first(self.few)
        self.sample_wise_subset = image_space(pixels).arranged(pixels), labels

    def require_usable(self, models: Sequence[EvaluatedModel], classes: int) -> None:
        """Put a few images through every model, before minutes are spent on crafting.

        Raises:
            AttackError: A model gives NaN, or something else than logits (N, K).
            DataError: K is not the number of ``classes``: a report could not name what the model says.
        """
        for model in models:
            width = model.logits(self.sample_wise_subset[0])[0].shape[1]
            if width != classes:
                raise DataError(
                    f"The {model.name} model gives {width} logits, and the data has {classes} classes.",
                    expected="one logit a class",
                    remedy="wrap a model of more classes so that it returns those of the data, logits[:, indices]",
                )

    def universal(self, rows: Sequence[Row], workers: Workers) -> None:
        """Fill in what the models say of clean images and under every perturbation; a row that fails stays empty.

        Raises:
            AttackError: A model cannot be used on clean images.
        """
        parts: dict[int, list[Tensor]] = {index: [] for index, row in enumerate(rows) if not row.is_sample_wise}
        for pixels, _ in self.sample.batches():
            images = image_space(pixels).arranged(pixels)
            begun = {index: self._classes(rows[index], images, workers) for index in parts}
            for index, future in begun.items():
                row = rows[index]
                if row.perturbation is None:
                    parts[index].append(future.result())
                    continue
                scored = len(parts[index])
                with self.crafting.costs_a_row(row.name, row.column, row.model.name):
                    parts[index].append(future.result())
                if len(parts[index]) == scored:
                    del parts[index]
        for index, found in parts.items():
            rows[index].predicted = torch.cat(found)
            if rows[index].perturbation is None:
                self.clean[rows[index].model.name] = rows[index].predicted  # type: ignore[assignment]

    def _classes(self, row: Row, images: Tensor, workers: Workers) -> Future[Tensor]:
        """Have the model of a row say which class each image is of, (N,), clean or perturbed."""

        def work(own: Own) -> Tensor:
            if workers.count == 1:  # several would wait for one another; their images are small
                give_back()
            shown = images if row.perturbation is None else row.perturbation.apply(images)
            return row.model.copied(own).predict(shown)

        return self._submitted(row, work, workers)

    @staticmethod
    def _submitted(row: Row, work: Callable[[Own], T], workers: Workers) -> Future[T]:
        """Submit work with a row's model; a callable, which need not bear several threads, does it at once."""
        return workers.submit(work) if row.model.module is not None else done(lambda: work(lambda module: module))

    def begin(self, rows: Sequence[Row], workers: Workers) -> None:
        """Have the first images attacked each by itself, for every row that is about that.

        Patches cost most and come first.
        """
        for row in sorted(rows, key=lambda row: row.attack is None or not row.attack.is_patch):
            if row.is_sample_wise:
                self._begun[id(row)] = self._begin(row, workers)

    @staticmethod
    def place(row: Row) -> Place:
        """Return where ``ahead`` has what a row needs."""
        return "" if row.column == Knowledge.TRANSFER else row.model.name, row.attack

    def begun(self, rows: Sequence[Row]) -> dict[Place, Future[Attacked]]:
        """Return what was begun for ``rows``, as ``ahead`` of another evaluation."""
        return {self.place(row): self._begun[id(row)] for row in rows if id(row) in self._begun}

    def sample_wise(self, row: Row) -> None:
        """Fill in what the model says of the images that were attacked each by itself; a row that fails stays empty."""
        with self.crafting.costs_a_row(row.name, row.column, row.model.name):
            adversarial, row.seconds = self._begun.pop(id(row)).result()
            row.predicted = row.model.predict(adversarial)

    def _begin(self, row: Row, workers: Workers) -> Future[Attacked]:
        """Have the images of a row attacked; those that transfer are the same for every model and made once."""
        model, attack, shared = row.model, row.attack, row.column == Knowledge.TRANSFER
        if self.place(row) in self.ahead:
            return self.ahead[self.place(row)]
        count = self.fewer if attack is not None and attack.is_patch else self.few
        pixels, labels = (tensor[:count].to(model.device) for tensor in self.sample_wise_subset)
        encoder, earlier = self.crafting.public if shared else model.encoder, tuple(self.crafting.begun)

        def work(own: Own) -> Attacked:
            start: Perturbation | None = None
            if isinstance(attack, SampleWiseAttack):
                start = self.crafting.strongest(attack.threat, model, own, earlier)
            self.crafting.announce(f"{row.column}: {row.name} ({model.name})")
            started = time.monotonic()
            if isinstance(attack, SampleWiseAttack):
                target = model.copied(own).classify
                adversarial = attack(target, pixels, labels, seed=self.crafting.seed, start=start)
            elif isinstance(attack, FeatureAttack) and encoder is not None:
                adversarial = attack(own(encoder).to(pixels.device), pixels, seed=self.crafting.seed)
            else:
                raise TypeError(f"{row.name} attacks no image by itself, or has no encoder to do so")
            return adversarial, round(time.monotonic() - started, 3)

        future = self._submitted(row, work, workers)
        if shared:
            self.ahead[self.place(row)] = future
        return future

    def score(self, row: Row) -> Score | None:
        """Count; None for a row that failed."""
        if row.predicted is None:
            return None
        threat = row.perturbation.threat.kind if row.perturbation is not None else "linf"
        budget = row.perturbation.budget if row.perturbation is not None else row.attack.budget if row.attack else 0.0
        if row.is_sample_wise and row.attack is not None and row.attack.is_patch:
            threat = "patch"
        details = row.perturbation.details if row.perturbation is not None else {}
        converged, tries = details.get("converged"), details.get("tries")
        n = len(row.predicted)
        return Score(
            row.model.name,
            row.column,
            row.name,
            budget,
            n,
            int((row.predicted == self.sample.labels[:n]).sum()),
            int((row.predicted != self.clean[row.model.name][:n]).sum()),
            row.source,  # type: ignore[arg-type]  # the names of Crafting.sources
            str(row.perturbation.key) if row.perturbation is not None else "",
            row.seconds,
            threat if row.name else "",  # type: ignore[arg-type]  # the kinds of THREATS
            converged if isinstance(converged, bool) else None,
            tries if type(tries) is int and tries > 0 and row.attack is not None else 1,  # chosen here, not replayed
        )

    def point(self, row: Row, budget: float) -> CurvePoint | None:
        """Count for the curve; None for a row that failed."""
        if row.predicted is None:
            return None
        n = len(row.predicted)
        correct = int((row.predicted == self.sample.labels[:n]).sum())
        return CurvePoint(row.model.name, row.column, row.name, budget, n, correct)
