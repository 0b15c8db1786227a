"""The template of an attack.

An attack is a frozen dataclass of its settings with one method to write. Four kinds, by what the attacker knows:

- ``EncoderAttack``: the encoder and unlabeled surrogate images; gives one perturbation (downstream-agnostic).
- ``UniversalModelAttack``: the whole classifier and labeled images; gives one perturbation.
- ``SampleWiseAttack`` (``sample_wise.py``): the whole classifier; perturbs every image by itself.
- ``FeatureAttack`` (there, too): the encoder alone; perturbs every image by itself.

Checks, seeds, eval mode and timing are done here once; ``run`` holds the mathematics alone.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from genaf_sdk.attacks.checks import attack_mode, check_labels, check_outputs, check_result
from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.images import input_space
from genaf_sdk.inputs.keys import Knowledge, PerturbationKey
from genaf_sdk.inputs.patches import patch_sides
from genaf_sdk.inputs.perturbation import Details, Perturbation
from genaf_sdk.inputs.threat import Linf, Patch, Threat
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.models.forwards import forward_in
from genaf_sdk.precision import CraftingPrecision, resolve
from genaf_sdk.settings import Epsilon, Settings

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Classifier = Callable[[Tensor], Tensor]
"""Pixels (N, C, H, W) in [0, 1] to logits (N, K): a module, or anything that can be called like one."""

Crafted = Perturbation | Sequence[Perturbation]
"""One, or several of which the attacker cannot tell the strongest, the likeliest first."""


@dataclass(frozen=True)
class Attack(Settings, ABC):
    """What all attacks share: a name, a source and a budget."""

    error = AttackError

    name: ClassVar[str]
    """Spelling in configurations, on the command line and in reports."""
    source: ClassVar[str]
    """Where the attack was published."""
    is_patch: ClassVar[bool] = False
    """Whether the attack pastes a patch; its budget is an area, and joint tables leave it as it is."""
    only_outputs: ClassVar[bool] = False
    """Whether outputs and their gradients are all that the attack asks for, and no layer: a network may then compute
    the same with its batch norms folded."""
    needs_gradient: ClassVar[bool] = True
    """False for attacks that only ask for outputs and so work on any callable, an ONNX file included."""
    draws_from_torch: ClassVar[bool] = False
    """Whether it takes torch's own random numbers, which belong to the process, rather than those of its generator."""
    knowledge: ClassVar[Knowledge]
    """Of the attacker, where an evaluation does not know it better."""
    renamed: ClassVar[dict[str, str]] = {"relative_step": "relative_step_size"}
    """Older spellings of settings, which text may still use."""

    budget: Epsilon = 10 / 255
    """Size of the threat: an L_inf budget in pixel units; for a patch, the share of the area."""

    @property
    def threat(self) -> Threat:
        """What the attacker may do to an image."""
        return Patch(self.budget) if self.is_patch else Linf(self.budget)

    def require(self, target: nn.Module, pixels: Tensor, classes: int) -> None:
        """Refuse what would fail only once a model is trained; subclasses add a missing package, layer or class.

        Args:
            target: The encoder, or the classifier, that the attack is for.
            pixels: A few images (N, C, H, W) in [0, 1] at the size to attack.
            classes: How many there are.

        Raises:
            AttackError: The attack cannot run on these.
        """
        del target, classes
        if self.is_patch:
            patch_sides(pixels.shape[-2], pixels.shape[-1], self.budget)

    def passes(self, images: int) -> float:
        """Return about how many of ``images`` cross the target, forth and back: steps or epochs, times restarts."""
        of_steps = (getattr(self, "steps", None) or 0) * self._images_of_a_step(images)
        an_attempt = of_steps or getattr(self, "epochs", 0) * images
        return float(an_attempt * getattr(self, "restarts", 1))

    def _images_of_a_step(self, images: int) -> int:
        return min(getattr(self, "batch_size", images), images)

    def _folded(self, target: object, images: Tensor) -> AbstractContextManager[None]:
        """Context: the target computes the same, but for rounding, with fewer passes over memory."""
        if self.only_outputs and isinstance(target, nn.Module):
            return folded_batch_norms(target, images)
        return nullcontext()

    def with_budget(self, budget: float) -> Self:
        """Return the same attack at another budget."""
        return dataclasses.replace(self, budget=budget)


@dataclass(frozen=True)
class UniversalAttack(Attack):
    """What attacks share that give one perturbation for all images."""

    precision: CraftingPrecision = "auto"
    """Arithmetic of the network while crafting; ``auto`` is bf16 where the device has it. Scores are always fp32."""

    def _start(self, start: Perturbation | None, images: Tensor) -> Perturbation | None:
        """Return ``start`` where it is of this attack's kind of threat.

        Raises:
            AttackError: It is for images of another shape.
        """
        if start is not None and start.values.shape != images.shape[1:]:
            raise AttackError(
                f"{self.name!r} was given a start of shape {tuple(start.values.shape)}.",
                expected=f"that of an image, {tuple(images.shape[1:])}",
            )
        return start if start is not None and type(start.threat) is type(self.threat) else None

    def _craft(
        self, target: nn.Module, images: Tensor, run: Callable[[torch.Generator], Crafted], seed: int
    ) -> list[Perturbation]:
        started, precision = time.monotonic(), resolve(self.precision, images.device)
        with attack_mode(target), self._folded(target, images), forward_in(precision, target):
            crafted = run(torch.Generator().manual_seed(seed))
        made = [crafted] if isinstance(crafted, Perturbation) else list(crafted)
        if not made:
            raise AttackError(f"{self.name!r} failed. It gave nothing.", expected="a perturbation, or several")
        seconds = round(time.monotonic() - started, 3)
        record: Details = {"precision": precision, "seed": seed, "seconds": seconds}
        if len(made) > 1:
            record["tries"] = len(made)
        return [self._completed(perturbation, images, record) for perturbation in made]

    def _completed(self, perturbation: Perturbation, images: Tensor, record: Details) -> Perturbation:
        values, mask = perturbation.values.detach().float().cpu(), perturbation.mask
        check_result(self.name, values, images.shape[1:])
        # Enforce the stated budget even if an attack has a bug.
        threat = dataclasses.replace(perturbation.threat, size=self.budget)
        values, mask = threat.project(values), None if mask is None else mask.detach().float().cpu()
        try:
            threat.check(values, mask)
        except AttackError as error:
            raise AttackError(f"{self.name!r} failed. {error.problem}", expected=error.expected) from error
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {
            key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool, type(None)))
        }
        details = {**plain, **perturbation.details, **record}
        return Perturbation(values, threat, mask, PerturbationKey(self.knowledge, self.name), details)


@dataclass(frozen=True)
class EncoderAttack(UniversalAttack):
    """Crafts one perturbation from an encoder and unlabeled images."""

    knowledge = Knowledge.TRANSFER

    def __call__(
        self, encoder: nn.Module, surrogate: Tensor, *, seed: int = 0, start: Perturbation | None = None
    ) -> Perturbation:
        """Craft; where there are several tries, return the one that the attacker would choose.

        Args, errors: As for ``tries``.
        """
        return self.tries(encoder, surrogate, seed=seed, start=start)[0]

    def tries(
        self, encoder: nn.Module, surrogate: Tensor, *, seed: int = 0, start: Perturbation | None = None
    ) -> list[Perturbation]:
        """Craft all that the attacker may try, the likeliest first: most attacks have one.

        Without labels nobody can tell which does most to a classifier. An evaluation can, and counts that one.

        Args:
            encoder: Pixels (N, C, H, W) in [0, 1] to features (N, D); left as it was.
            surrogate: The attacker's own images, (N, C, H, W) in [0, 1], at the size to attack.
            seed: Seeds every random choice of the attack.
            start: What the attacker has already, such as a perturbation that transfers; attacks that cannot begin
                anywhere, or not with this kind of perturbation, do without.

        Raises:
            AttackError: No surrogate images, pixels outside [0, 1], a start of another shape, an encoder that gives
                NaN, or one that the attack cannot work on.
        """
        input_space(encoder, surrogate).check(surrogate, repr(self.name))
        begin = self._start(start, surrogate)
        check_outputs(self.name, encoder, surrogate, needs_gradient=self.needs_gradient)

        def craft(generator: torch.Generator) -> Crafted:
            if begin is None:
                return self.run(encoder, surrogate, generator)
            return self.run_from(encoder, surrogate, generator, begin)

        return self._craft(encoder, surrogate, craft, seed)

    def run_from(
        self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Crafted:
        """Craft as ``run``, from ``start`` if the attack can begin there.

        ``encoder``, ``surrogate`` (N, C, H, W) and ``generator`` are what ``run`` is given.
        """
        del start
        return self.run(encoder, surrogate, generator)

    @abstractmethod
    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Crafted:
        """Craft from ``surrogate`` (N, C, H, W) in [0, 1] a perturbation (C, H, W) within the threat, or several.

        ``encoder`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """


@dataclass(frozen=True)
class UniversalModelAttack(UniversalAttack):
    """Crafts one perturbation from the whole classifier and labeled images."""

    knowledge = Knowledge.WHITE_BOX

    def __call__(
        self, model: nn.Module, pixels: Tensor, labels: Tensor, *, seed: int = 0, start: Perturbation | None = None
    ) -> Perturbation:
        """Craft.

        Args:
            model: Pixels (N, C, H, W) in [0, 1] to logits (N, K); left as it was.
            pixels: Images to craft on, (N, C, H, W) in [0, 1].
            labels: Their classes, (N,).
            seed: Seeds every random choice of the attack.
            start: What the attacker has already, as for ``EncoderAttack``: an attack that needs no labels, say.

        Raises:
            AttackError: No images, pixels outside [0, 1], a start of another shape, labels missing or not classes of
                the model, or a model that gives NaN.
        """
        input_space(model, pixels).check(pixels, repr(self.name))
        begin = self._start(start, pixels)
        classes = check_outputs(self.name, model, pixels, needs_gradient=self.needs_gradient)
        check_labels(self.name, labels, len(pixels), classes)

        def craft(generator: torch.Generator) -> Perturbation:
            if begin is None:
                return self.run(model, pixels, labels, generator)
            return self.run_from(model, pixels, labels, generator, begin)

        return self._craft(model, pixels, craft, seed)[0]

    def run_from(
        self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator, start: Perturbation
    ) -> Perturbation:
        """Craft as ``run``, from ``start`` if the attack can begin there.

        ``model``, ``pixels`` (N, C, H, W), ``labels`` (N,) and ``generator`` are what ``run`` is given.
        """
        del start
        return self.run(model, pixels, labels, generator)

    @abstractmethod
    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Craft from ``pixels`` (N, C, H, W) in [0, 1] and ``labels`` (N,) a perturbation (C, H, W).

        ``model`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """
