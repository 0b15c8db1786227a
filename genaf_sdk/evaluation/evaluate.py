"""evaluate(): the three columns, transfer, adaptive and white-box, for a model before and after hardening."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.base import Attack, EncoderAttack, SampleWiseAttack, UniversalModelAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.data import DataSplits
from genaf_sdk.data.alignment import aligned_to_all
from genaf_sdk.errors import AttackError
from genaf_sdk.evaluation.checks import gradient_masking_checks
from genaf_sdk.evaluation.classes import class_counts
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.evaluation.subject import Subject, published_encoder
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.gallery import gallery_images
from genaf_sdk.report.robustness import RobustnessReport
from genaf_sdk.report.scores import Column, CurvePoint, Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.data import LabelledImages


def evaluate(
    model: Any,
    data: DataSplits,
    *,
    attacks: Sequence[str | Attack] | None = None,
    encoder: Any = None,
    undefended: Any = None,
    surrogate: Tensor | None = None,
    perturbations: dict[str, Perturbation] | None = None,
    config: EvaluationConfig | None = None,
    seed: int = 0,
    on_attack: Callable[[str], object] = str,
) -> RobustnessReport:
    """Measure a classifier on clean and attacked test images.

    Args:
        model: A ``HardenResult``, any module or callable from pixels (N, C, H, W) in [0, 1] to logits (N, K), or the
            path of an exported bundle. What cannot be differentiated is measured under the transfer column, under
            ``perturbations`` and under attacks that only query.
        data: The task's images. Universal attacks are crafted on training images, scored on test images. Where the
            model carries class names, labels are mapped to its classes by name.
        attacks: Names (``"pgd"``, ``"pgd:steps=50,budget=4/255"``) or instances; by default those of ``config``. A
            budget that is stated is kept.
        encoder: The published encoder (module or id), for the transfer column; without it that column is empty.
        undefended: The same encoder fine-tuned without defence, to be measured beside ``model``.
        surrogate: The attacker's own images (N, C, H, W) in [0, 1], at the model's image size. Without them the
            attacker gets the downstream training images, without labels: a stronger attacker than the paper's.
        perturbations: Saved perturbations to replay, by name; they appear in the transfer column.
        config: Budgets and sample counts.
        seed: Of every random choice.
        on_attack: Called with a line of text before each attack.

    Raises:
        AttackError: The model or an attack cannot be used; the message says why.
        DataError: The classes of the data are not those of the model.
    """
    config = config or EvaluationConfig()
    subjects = [Subject.of(model, "hardened")]
    if undefended is not None:
        subjects.append(Subject.of(undefended, "undefended"))
    data = aligned_to_all(data, {f"the {subject.name} model": subject.classify for subject in subjects})
    session = _Session(data, config, seed, surrogate, on_attack)
    public = published_encoder(encoder if encoder is not None else getattr(model, "published", None))
    chosen = [_with_configured_budget(attack, config) for attack in attacks or config.attacks]

    for subject in subjects:
        session.score_clean(subject)
    noise = load_attack("noise").with_budget(config.perturbation_budget)
    session.score_universal(subjects, "noise", noise, None)
    for name, perturbation in (perturbations or {}).items():
        for subject in subjects:
            session.score_perturbation(subject, "transfer", perturbation, name, "replayed")
    for attack in chosen:
        if isinstance(attack, EncoderAttack):
            if public is not None:
                session.score_universal(subjects, "transfer", attack, public)
            for subject in subjects:
                if subject.encoder is not None:
                    session.score_universal([subject], "adaptive", attack, subject.encoder)
        else:
            for subject in subjects:
                session.score_white_box(subject, attack)
    named = {attack.name: attack for attack in reversed(chosen)}
    session.draw_curve(subjects[0], public, [named.get(name) or load_attack(name) for name in ("uapgd", "pgd")])
    if config.checks:
        session.checks = gradient_masking_checks(
            subjects[0], session.scores, session.curve, *session.few_images(), seed
        )
    return RobustnessReport(
        data=data.describe(),
        scores=session.scores,
        curve=session.curve,
        checks=session.checks,
        perturbations=session.perturbations,
        notes=_notes(subjects[0], public, surrogate),
        seed=seed,
        sections={
            "classes": class_counts(session.scores, session.predictions, session.labels, len(data.class_names)),
            "gallery": gallery_images(
                session.pixels,
                session.labels,
                {subject.name: subject.predict for subject in subjects},
                session.perturbations,
            ),
        },
    )


def _with_configured_budget(attack: str | Attack, config: EvaluationConfig) -> Attack:
    if isinstance(attack, Attack):
        return attack
    loaded = load_attack(attack)
    if "budget=" in attack:
        return loaded
    if isinstance(loaded, SampleWiseAttack):
        return loaded.with_budget(config.sample_wise_budget)
    return loaded if loaded.is_patch else loaded.with_budget(config.perturbation_budget)


def _notes(subject: Subject, public: nn.Module | None, surrogate: Tensor | None) -> list[str]:
    notes = []
    if surrogate is None:
        notes.append("The attacker crafts on the downstream training images: stronger than the paper's attacker.")
    if public is None:
        notes.append("No published encoder was given: the transfer column is empty.")
    if subject.encoder is None:
        notes.append("The model's encoder is not known: the adaptive column is empty.")
    return notes


@dataclass
class _Session:
    """One evaluation: its images, and the rows measured so far."""

    data: DataSplits
    config: EvaluationConfig
    seed: int
    surrogate: Tensor | None
    on_attack: Callable[[str], object]
    scores: list[Score] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    checks: list[Any] = field(default_factory=list)
    perturbations: dict[str, Perturbation] = field(default_factory=dict)
    predictions: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """Class of each image (N,) by model and key of the perturbation; clean ones have an empty key."""

    def __post_init__(self) -> None:
        # One shuffled order: what is scored on fewer images is scored on the first of them.
        self.pixels, self.labels = self._images(self.data.test, self.config.test_samples)
        self.train_pixels, self.train_labels = self._images(self.data.train, self.config.surrogate_samples)
        own = self.surrogate
        if own is not None and own.shape[1:] != self.pixels.shape[1:]:
            own = nn.functional.interpolate(own, self.pixels.shape[2:], mode="bilinear", antialias=True)
        self.sources = {"train": self.train_pixels}
        if own is not None:
            self.sources = {"surrogate": own[: self.config.surrogate_samples], "train": self.train_pixels}

    def _images(self, images: LabelledImages, count: int | None) -> tuple[Tensor, Tensor]:
        """Return images in a memory layout that convolutions like."""
        pixels, labels = images.head(count, seed=self.seed)
        return pixels.contiguous(memory_format=torch.channels_last), labels

    def few_images(self) -> tuple[Tensor, Tensor]:
        """Return the images for sample-wise attacks."""
        count = self.config.sample_wise_samples
        return self.pixels[:count], self.labels[:count]

    def score_clean(self, subject: Subject) -> None:
        self.predictions[subject.name, ""] = subject.predict(self.pixels)
        self._add(subject, "clean", "", 0.0, self.predictions[subject.name, ""])

    def score_universal(
        self, subjects: Sequence[Subject], column: Column, attack: Attack, encoder: nn.Module | None
    ) -> None:
        """Craft on ``encoder`` from each source of images and score every subject."""
        if not isinstance(attack, EncoderAttack):
            raise AttackError(f"{attack.name!r} does not attack encoders.", expected="an EncoderAttack")
        for source, images in self.sources.items():
            if column == "transfer" and source != next(iter(self.sources)):
                continue  # the transfer column is the paper's: the attacker's own images
            self.on_attack(f"{column}: {attack.name}")
            device = subjects[0].device
            target = encoder if encoder is not None else nn.Identity()
            perturbation = attack(target.to(device), images.to(device), seed=self.seed)
            owner = "" if column in ("noise", "transfer") else f"-{subjects[0].name}"
            key = (
                "-".join(dict.fromkeys((column, attack.name)))
                + owner
                + ("" if len(self.sources) == 1 else f"-{source}")
            )
            for subject in subjects:
                self.score_perturbation(subject, column, perturbation, key, source)

    def score_perturbation(
        self, subject: Subject, column: Column, perturbation: Perturbation, key: str, source: str
    ) -> None:
        """Score a perturbation that is there, and keep it."""
        known = self.perturbations.get(key)
        if known is not None and known is not perturbation:  # the same attack with other settings
            key = f"{key}-{sum(name.startswith(key) for name in self.perturbations) + 1}"
        self.perturbations[key] = perturbation
        seconds = float(perturbation.details.get("seconds") or 0.0)
        predicted = self.predictions[subject.name, key] = subject.predict(perturbation.apply(self.pixels))
        self._add(subject, column, perturbation.attack, perturbation.budget, predicted, source, key, seconds)

    def score_white_box(self, subject: Subject, attack: Attack) -> None:
        """Attack the whole model, where its gradients, or for query-only attacks its answers, can be had."""
        target = subject.module if subject.module is not None else subject.classify
        if subject.module is None and attack.needs_gradient:
            return
        self.on_attack(f"white-box: {attack.name} ({subject.name})")
        if isinstance(attack, UniversalModelAttack) and subject.module is not None:
            pixels, labels = self.train_pixels.to(subject.device), self.train_labels.to(subject.device)
            perturbation = attack(subject.module, pixels, labels, seed=self.seed)
            key = f"white-box-{attack.name}-{subject.name}"
            self.score_perturbation(subject, "white-box", perturbation, key, "train")
        elif isinstance(attack, SampleWiseAttack):
            pixels, labels = (tensor.to(subject.device) for tensor in self.few_images())
            started = time.monotonic()
            adversarial = attack(target, pixels, labels, seed=self.seed)
            seconds = round(time.monotonic() - started, 3)
            self._add(
                subject, "white-box", attack.name, attack.budget, subject.predict(adversarial), "test", "", seconds
            )

    def draw_curve(self, subject: Subject, public: nn.Module | None, attacks: list[Attack]) -> None:
        """Accuracy against budget: UAPGD on the published and on the own encoder, PGD on the whole model.

        Budgets at which the table holds the same attack are taken from there.
        """
        images = self.sources["train"].to(subject.device)
        encoders: dict[Column, nn.Module | None] = {"transfer": public, "adaptive": subject.encoder}
        for budget in self.config.curve:
            self.on_attack(f"curve: {budget * 255:.3g}/255")
            for column, encoder in encoders.items():
                attack = attacks[0].with_budget(budget)
                if self._taken_from_table(subject, column, attack, "train"):
                    continue
                if encoder is not None and isinstance(attack, EncoderAttack):
                    perturbed = attack(encoder, images, seed=self.seed).apply(self.pixels)
                    self._add_point(subject, column, attack, perturbed)
            sample_wise = attacks[1].with_budget(budget)
            if self._taken_from_table(subject, "white-box", sample_wise, "test"):
                continue
            if subject.module is not None and isinstance(sample_wise, SampleWiseAttack):
                pixels, labels = (tensor.to(subject.device) for tensor in self.few_images())
                self._add_point(subject, "white-box", sample_wise, sample_wise(subject.module, pixels, labels).cpu())

    def _taken_from_table(self, subject: Subject, column: Column, attack: Attack, source: str) -> bool:
        key = (subject.name, column, attack.name, attack.budget, source)
        for s in self.scores:
            if (s.model, s.column, s.attack, s.budget, s.crafted_on) == key:
                self.curve.append(CurvePoint(s.model, column, s.attack, s.budget, s.n, s.correct))
                return True
        return False

    def _add_point(self, subject: Subject, column: Column, attack: Attack, pixels: Tensor) -> None:
        correct = int((subject.predict(pixels) == self.labels[: len(pixels)]).sum())
        self.curve.append(CurvePoint(subject.name, column, attack.name, attack.budget, len(pixels), correct))

    def _add(
        self,
        subject: Subject,
        column: Column,
        attack: str,
        budget: float,
        predicted: Tensor,
        source: str = "",
        key: str = "",
        seconds: float = 0.0,
    ) -> None:
        n = len(predicted)
        correct = int((predicted == self.labels[:n]).sum())
        changed = int((predicted != self.predictions[subject.name, ""][:n]).sum())
        self.scores.append(Score(subject.name, column, attack, budget, n, correct, changed, source, key, seconds))
