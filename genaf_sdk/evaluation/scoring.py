"""Scoring: one pass over the test images, batch by batch, in which every model sees every perturbation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genaf_sdk.attacks.base import FeatureAttack, SampleWiseAttack
from genaf_sdk.data.loading import give_back
from genaf_sdk.data.sampling import Sample
from genaf_sdk.evaluation.crafting import Crafting, Row
from genaf_sdk.inputs.images import image_space
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.report.scores import CurvePoint, Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.evaluation.model import EvaluatedModel


@dataclass
class Scoring:
    """Says what the models say, and counts it.

    Args:
        sample: Test images in the evaluation's order.
        few: How many of the first of them sample-wise attacks are scored on.
        fewer: The same for patches, which cost more; at most as many.
        crafting: Where failures are noted; its seed is that of sample-wise attacks.
        clean: Class of each clean image (N,), by name of the model.
        transferred: Images attacked one by one on the published encoder.
    """

    sample: Sample
    few: int
    fewer: int
    crafting: Crafting
    clean: dict[str, Tensor] = field(default_factory=dict)
    transferred: dict[FeatureAttack, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pixels, labels = self.sample.first(self.few)
        self.sample_wise_subset = image_space(pixels).arranged(pixels), labels

    def require_usable(self, models: Sequence[EvaluatedModel]) -> None:
        """Put a few images through every model, before minutes are spent on crafting.

        Raises:
            AttackError: A model gives NaN, or something else than logits (N, K).
        """
        for model in models:
            model.predict(self.sample_wise_subset[0])

    def universal(self, rows: Sequence[Row]) -> None:
        """Fill in what the models say of clean images and under every perturbation; a row that fails stays empty.

        Raises:
            AttackError: A model cannot be used on clean images.
        """
        parts: dict[int, list[Tensor]] = {index: [] for index, row in enumerate(rows) if not row.is_sample_wise}
        for pixels, _ in self.sample.batches():
            images = image_space(pixels).arranged(pixels)
            perturbed: dict[int, Tensor] = {}  # two models see the very same images
            for index in list(parts):
                row = rows[index]
                if row.perturbation is None:
                    parts[index].append(row.model.predict(images))
                    continue
                scored = len(parts[index])
                with self.crafting.costs_a_row(row.name, row.column, row.model.name):
                    if id(row.perturbation) not in perturbed:
                        perturbed.clear()
                        give_back()
                        perturbed[id(row.perturbation)] = row.perturbation.apply(images)
                    parts[index].append(row.model.predict(perturbed[id(row.perturbation)]))
                if len(parts[index]) == scored:
                    del parts[index]
        for index, found in parts.items():
            rows[index].predicted = torch.cat(found)
            if rows[index].perturbation is None:
                self.clean[rows[index].model.name] = rows[index].predicted  # type: ignore[assignment]

    def sample_wise(self, row: Row) -> None:
        """Attack the first images each by itself, where gradients, or for query-only attacks answers, can be had."""
        model, attack = row.model, row.attack
        target = model.module if model.module is not None else model.classify
        self.crafting.on_attack(f"{row.column}: {row.name} ({model.name})")
        with self.crafting.costs_a_row(row.name, row.column, model.name):
            started = time.monotonic()
            count = self.fewer if attack is not None and attack.is_patch else self.few
            pixels, labels = (tensor[:count].to(model.device) for tensor in self.sample_wise_subset)
            if isinstance(attack, FeatureAttack):
                adversarial = self._features_attacked(attack, row, pixels)
            elif isinstance(attack, SampleWiseAttack):
                start = self.crafting.strongest(attack.threat, model)
                adversarial = attack(target, pixels, labels, seed=self.crafting.seed, start=start)
            else:
                return
            row.seconds = round(time.monotonic() - started, 3)
            row.predicted = model.predict(adversarial)

    def _features_attacked(self, attack: FeatureAttack, row: Row, pixels: Tensor) -> Tensor:
        """Return the attacked images; those that transfer are the same for every model and made once."""
        encoder = self.crafting.public if row.column == Knowledge.TRANSFER else row.model.encoder
        if encoder is None:
            raise TypeError("an attack on features needs an encoder")
        if row.column != Knowledge.TRANSFER:
            return attack(encoder, pixels, seed=self.crafting.seed)
        if attack not in self.transferred:
            self.transferred[attack] = attack(encoder.to(pixels.device), pixels, seed=self.crafting.seed)
        return self.transferred[attack].to(pixels.device)

    def score(self, row: Row) -> Score | None:
        """Count; None for a row that failed."""
        if row.predicted is None:
            return None
        threat = row.perturbation.threat.kind if row.perturbation is not None else "linf"
        budget = row.perturbation.budget if row.perturbation is not None else row.attack.budget if row.attack else 0.0
        if row.is_sample_wise and row.attack is not None and row.attack.is_patch:
            threat = "patch"
        converged = row.perturbation.details.get("converged") if row.perturbation is not None else None
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
        )

    def point(self, row: Row, budget: float) -> CurvePoint | None:
        """Count for the curve; None for a row that failed."""
        if row.predicted is None:
            return None
        n = len(row.predicted)
        correct = int((row.predicted == self.sample.labels[:n]).sum())
        return CurvePoint(row.model.name, row.column, row.name, budget, n, correct)
