"""evaluate(): the three columns, transfer, adaptive and white-box, for a model before and after hardening."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.batches import sharing_features
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.data import DataSplits
from genaf_sdk.data.alignment import aligned_to_all
from genaf_sdk.data.images import generator_of
from genaf_sdk.data.sampling import Sample, mask_color
from genaf_sdk.evaluation.ahead import Ahead
from genaf_sdk.evaluation.certificates import certify
from genaf_sdk.evaluation.checks import OwnAttacks, begin_own_attacks, gradient_masking_checks
from genaf_sdk.evaluation.chosen import chosen_attacks
from genaf_sdk.evaluation.classes import class_counts
from genaf_sdk.evaluation.corrupted import corruption_section
from genaf_sdk.evaluation.crafting import Crafting
from genaf_sdk.evaluation.curve import begin_curve, curve_rows
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.evaluation.model import EvaluatedModel, published_encoder
from genaf_sdk.evaluation.pictures import chosen_images, gallery_section
from genaf_sdk.evaluation.row import Row
from genaf_sdk.evaluation.scoring import Scoring
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.evaluation.workers import Workers
from genaf_sdk.inputs.images import image_space
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.memory import reused_memory
from genaf_sdk.report.reading import read_document
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Role
from genaf_sdk.report.sections import DataDescription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.attacks.base import Attack
    from genaf_sdk.inputs.images import ImageSpace
    from genaf_sdk.inputs.perturbation import Perturbation


@reused_memory()
def evaluate(
    model: Any,
    data: DataSplits,
    *,
    attacks: Sequence[str | Attack] | None = None,
    encoder: Any = None,
    baseline: Any = None,
    surrogate: Tensor | None = None,
    perturbations: dict[str, Perturbation] | None = None,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    on_attack: Callable[[str], object] = str,
    ahead: Ahead | None = None,
    kept: Kept | None = None,
) -> RobustnessReport:
    """Measure a classifier on clean and attacked test images.

    The test images are read in batches, once: memory does not grow with their number. An attack that fails costs its
    row and is named in ``report.failures``; one that the model does not allow is named in ``report.notes``.

    Args:
        model: A ``HardenResult``, any module or callable from pixels (N, C, H, W) in [0, 1] to logits (N, K), or the
            path of an exported bundle. What cannot be differentiated is measured under the transfer column, under
            ``perturbations`` and under attacks that only query. The adaptive column attacks a module's ``encoder``, if
            that gets pixels as they are.
        data: The task's images. Universal attacks are crafted on training images, scored on test images. Labels are
            matched to the model's classes by name, where the model has class names.
        attacks: Names (``"pgd"``, ``"pgd:steps=50,budget=4/255"``) or instances; by default those of ``config``. A
            budget that is stated is kept.
        encoder: The published encoder (module or id), for the transfer column; without it that column is empty.
        baseline: The same encoder after standard fine-tuning, to be measured beside ``model``.
        surrogate: The attacker's own images (N, C, H, W) in [0, 1], at the model's image size. Without them the
            attacker gets the downstream training images, without labels: a stronger attacker than the paper's. Of more
            than ``config.surrogate_samples``, so many are drawn.
        perturbations: Saved perturbations to replay, by name; they appear in the transfer column.
        config: Budgets and sample counts.
        seed: Of every random choice.
        on_attack: Called with a line of text before each attack.
        ahead: What was begun before, with the same baseline, data, encoder, surrogate, config and seed.
        kept: Perturbations of an evaluation that was stopped; gets those of this one.

    Raises:
        AttackError: The model or the attacker's images cannot be used, or an attack or a setting of one is unknown; the
            message says why.
        DataError: The classes of the data are not those of the model.
    """
    config = config or EvaluationConfig()
    models = [EvaluatedModel.of(model, Role.HARDENED)]
    if baseline is not None:
        models.append(EvaluatedModel.of(baseline, Role.BASELINE))
    data = aligned_to_all(data, {f"the {under_test.name} model": under_test.classify for under_test in models})
    few, _ = data.train.sample(2)
    models = [under_test.seen_on(image_space(few).arranged(few)) for under_test in models]
    chosen = chosen_attacks(attacks or config.attacks, config)
    public = published_encoder(encoder, model)
    run = _Evaluation(data, config, seed, models, public, surrogate, on_attack, ahead, kept or Kept())
    return run.measure(chosen, perturbations or {}, own_images=surrogate is not None)


def begin_ahead(
    baseline: nn.Module,
    data: DataSplits,
    workers: Workers,
    *,
    encoder: nn.Module,
    surrogate: Tensor | None = None,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    on_attack: Callable[[str], object] = str,
    kept: Kept | None = None,
) -> Ahead:
    """Begin what an evaluation can do without the model: attacks on the published encoder and on the baseline.

    What an attack finds depends on its settings, its seed and what it starts from alone, so that it may come first.

    Args:
        baseline: In eval mode by the time that ``workers`` come to it.
        data: As for ``evaluate``, and so are all others.
        workers: Who does it.
        encoder: The published one.
        surrogate: As for ``evaluate``.
        config: As for ``evaluate``.
        seed: As for ``evaluate``.
        on_attack: As for ``evaluate``.
        kept: As for ``evaluate``.
    """
    config = config or EvaluationConfig()
    models = [EvaluatedModel.of(baseline, Role.BASELINE)]
    run = _Evaluation(data, config, seed, models, encoder, surrogate, on_attack, kept=kept or Kept())
    chosen = [attack for attack in chosen_attacks(config.attacks, config) if not attack.draws_from_torch]
    with sharing_features():
        begun = run.crafting.begin(chosen, workers)
        each = [row for attack in chosen for row in run.crafting.rows(attack)]
        run.scoring.begin(each, workers)
    return Ahead(workers, on_attack, tuple(begun), run.scoring.begun(each))


@dataclass
class _Evaluation:
    """One evaluation: crafting first, then one pass over the test images, then the attacks on single images."""

    data: DataSplits
    config: EvaluationConfig
    seed: int
    models: list[EvaluatedModel]
    public: nn.Module | None
    surrogate: Tensor | None
    on_attack: Callable[[str], object]
    ahead: Ahead | None = None
    kept: Kept = field(default_factory=Kept)
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        # One shuffled order: what is scored on fewer images is scored on the first of them.
        self.sample = Sample.draw(self.data.test, self.config.test_samples, seed=self.seed)
        pixels, labels = self.data.train.sample(self.config.surrogate_samples, seed=self.seed)
        sources = {"train": image_space(pixels).arranged(pixels)}
        if self.surrogate is not None:
            sources = {"surrogate": self._chosen(self.surrogate, image_space(pixels)), **sources}
        self.crafting = Crafting(
            self.models,
            self.public,
            sources,
            labels,
            self.seed,
            self.on_attack,
            kept=self.kept,
            seeds=self.config.attack_seeds,
        )
        self.scoring = Scoring(self.sample, self.config.sample_wise_samples, self.config.patch_samples, self.crafting)
        if self.ahead is not None:
            self.crafting.ahead, self.scoring.ahead = self.ahead.begun, dict(self.ahead.each)

    def _chosen(self, own: Tensor, space: ImageSpace) -> Tensor:
        """Return as many of the attacker's own images as are crafted on, drawn by the seed, at the size of the task.

        Raises:
            AttackError: They are no images with the channels of the task and pixels in [0, 1].
        """
        if len(own) > self.config.surrogate_samples:  # the first ones may all be of one class
            own = own[torch.randperm(len(own), generator=generator_of(self.seed))[: self.config.surrogate_samples]]
        if own.ndim == len(space.shape) + 1 and own.shape[1] == space.shape[0] and own.shape[1:] != space.shape:
            own = nn.functional.interpolate(own, space.shape[1:], mode="bilinear", antialias=True)
        space.check(own, "The attacker")
        return own

    def measure(
        self, chosen: Sequence[Attack], replayed: dict[str, Perturbation], *, own_images: bool
    ) -> RobustnessReport:
        """Run everything and put the report together."""
        crafting, scoring = self.crafting, self.scoring
        scoring.require_usable(self.models, len(self.data.class_names))
        self.rows += [Row(model, Knowledge.CLEAN) for model in self.models]
        self.rows += crafting.noise(load_attack("noise").with_budget(self.config.perturbation_budget))
        self.rows += crafting.replayed(replayed, self.sample.shape)
        found = [self.public, *(module for model in self.models for module in (model.module, model.encoder))]
        modules = [module for module in found if module is not None]
        pixels = self.sample.shape[-2] * self.sample.shape[-1]
        given = self.ahead.workers if self.ahead else None
        with sharing_features(), given or Workers.suited(modules, pixels) as workers:
            workers.join()
            begun = crafting.begin(chosen, workers)
            each = [row for attack in chosen for row in crafting.rows(attack)]
            points = begin_curve(crafting, self.config.curve, chosen, each, workers)
            alone = [point for _, point in points if isinstance(point, Row) and not any(point is row for row in each)]
            scoring.begin([*each, *alone], workers)
            checked = self._begin_checks(chosen, workers)
            for attack in begun:
                self.rows += crafting.finished(attack, workers)
            self.rows += each
            drawn = curve_rows(crafting, points, self.rows)
            extra = [row for _, row in drawn if not any(row is known for known in self.rows)]
            self.on_attack("scoring")
            scoring.universal([*self.rows, *extra], workers)
            for row in (*self.rows, *extra):
                if row.is_sample_wise:
                    scoring.sample_wise(row)
        scores = [score for row in self.rows if (score := scoring.score(row)) is not None]
        curve = [point for budget, row in drawn if (point := scoring.point(row, budget)) is not None]
        report = RobustnessReport(
            data=read_document(DataDescription, self.data.describe(), "data"),
            scores=scores,
            curve=curve,
            perturbations=crafting.perturbations,
            notes=[*self._notes(own_images=own_images), *dict.fromkeys(crafting.notes)],
            seed=self.seed,
        )
        if checked is not None:
            with crafting.costs_a_row("sanity checks", "", self.models[0].name):
                report.checks = gradient_masking_checks(
                    self.models[0], self.rows, scores, curve, checked, self.sample.labels, self.seed
                )
        self._add_corruptions_and_certificate(report)
        with crafting.costs_a_row("pictures and classes", ""):
            self._add_pictures_and_classes(report)
        report.failures = crafting.failures
        return report

    def _begin_checks(self, chosen: Sequence[Attack], workers: Workers) -> OwnAttacks | None:
        if not self.config.checks:
            return None
        patches = any(attack.is_patch for attack in chosen)
        return begin_own_attacks(self.models[0], self.scoring.sample_wise_subset, self.seed, workers, patches=patches)

    def _add_corruptions_and_certificate(self, report: RobustnessReport) -> None:
        config, model = self.config, self.models[0]
        if config.corruption_samples is not None:
            with self.crafting.costs_a_row("corruptions", ""):
                count = config.corruption_samples
                report.corruptions = corruption_section(self.models, self.sample, count, self.on_attack)
        if config.certificate.patch is not None:
            with self.crafting.costs_a_row("certificate", "", model.name):
                self.on_attack("certificate")
                target = model.module if model.module is not None else model.classify
                fill = mask_color(self.data.train, self.seed)
                report.certificate = certify(target, self.sample, config.certificate, fill)

    def _add_pictures_and_classes(self, report: RobustnessReport) -> None:
        predictions = {
            (str(row.model.name), str(row.perturbation.key) if row.perturbation is not None else ""): row.predicted
            for row in self.rows
            if row.predicted is not None and not row.is_sample_wise
        }
        labels = self.sample.labels
        report.classes = class_counts(report.scores, predictions, labels, len(self.data.class_names))
        places = chosen_images(labels, self.data.image_shape[1:])
        predict = {str(model.name): model.predict for model in self.models}
        known = {name for _, name in predictions}
        shown = {name: found for name, found in report.perturbations.items() if name in known}
        report.gallery = gallery_section(*self.sample.at(places), predict, shown)

    def _notes(self, *, own_images: bool) -> list[str]:
        notes = []
        if not own_images:
            notes.append("The attacker crafts on the downstream training images: stronger than the paper's attacker.")
        if self.public is None:
            notes.append("No published encoder was given: the transfer column is empty.")
        return notes + [
            f"No encoder is known that the {model.name} model gives pixels as they are: it has no adaptive rows."
            for model in self.models
            if model.encoder is None
        ]
