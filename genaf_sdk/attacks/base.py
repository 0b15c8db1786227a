"""The template of an attack, and the registry.

An attack is a frozen dataclass of its settings with one method to write. Three kinds, by what the attacker knows:

- ``EncoderAttack``: the encoder and unlabelled surrogate images; gives one perturbation (downstream-agnostic).
- ``UniversalModelAttack``: the whole classifier and labelled images; gives one perturbation.
- ``SampleWiseAttack``: the whole classifier; perturbs every image by itself.

Checks, seeds, eval mode and timing are done here once; ``run`` holds the mathematics alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from genaf_sdk.errors import AttackError
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.models.modes import inference_mode_of
from genaf_sdk.precision import CraftingPrecision, forward_in, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTRY_POINTS = "genaf_sdk.attacks"

Classifier = Callable[[Tensor], Tensor]
"""Pixels (N, C, H, W) in [0, 1] to logits (N, K): a module, or anything that can be called like one."""


@dataclass(frozen=True)
class Attack(ABC):
    """What all attacks share: a name, a source and a budget."""

    name: ClassVar[str]
    """Spelling in configurations, on the command line and in reports."""
    source: ClassVar[str]
    """Where the attack was published."""
    is_patch: ClassVar[bool] = False
    """Whether ``budget`` is the area of a patch; such attacks keep it in joint tables."""
    needs_gradient: ClassVar[bool] = True
    """False for attacks that only ask for outputs and so work on any callable, an ONNX file included."""

    budget: float = 10 / 255
    """L_inf budget in pixel units; for a patch, the share of the area."""

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise AttackError(
                f"The budget of {self.name!r} is {self.budget!r}.",
                expected="a share of the pixel range, above 0 and at most 1, such as 8 / 255",
            )
        hints = get_type_hints(type(self))
        for setting in dataclasses.fields(self):
            value, choices = getattr(self, setting.name), get_args(hints[setting.name])
            if get_origin(hints[setting.name]) is Literal and value not in choices:
                raise AttackError(
                    f"{setting.name} of {self.name!r} is {value!r}.", expected=f"one of {', '.join(choices)}"
                )
            if hints[setting.name] is int and not (isinstance(value, int) and value >= 1):
                raise AttackError(
                    f"{setting.name} of {self.name!r} is {value!r}.", expected="a whole number of at least 1"
                )

    def with_budget(self, budget: float) -> Self:
        """Return the same attack at another budget."""
        return dataclasses.replace(self, budget=budget)


@dataclass(frozen=True)
class UniversalAttack(Attack):
    """What attacks share that give one perturbation for all images."""

    precision: CraftingPrecision = "auto"
    """Arithmetic of the network while crafting; ``auto`` is bf16 where the device has it. Scores are always fp32."""

    def _craft(
        self, target: nn.Module, images: Tensor, run: Callable[[torch.Generator], Perturbation], seed: int
    ) -> Perturbation:
        started, precision = time.monotonic(), resolve(self.precision, images.device)
        with frozen(target), forward_in(precision, target):
            perturbation = run(torch.Generator().manual_seed(seed))
        values, mask = perturbation.values.detach().float().cpu(), perturbation.mask
        if not torch.isfinite(values).all():
            raise _not_finite(self.name, "ended in")
        # A mistake in an attack must not hand it a larger budget than the report states.
        if mask is None:
            values = values.clamp(-self.budget, self.budget)
        else:
            values, mask = values.clamp(0, 1), mask.detach().float().cpu()
            if float(mask.mean()) > self.budget or not ((mask == 0) | (mask == 1)).all():
                raise AttackError(
                    f"The patch of {self.name!r} covers {float(mask.mean()):.2%} of the image.",
                    expected=f"a mask of zeros and ones over at most {self.budget:.2%}",
                )
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain = {
            key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool, type(None)))
        }
        seconds = round(time.monotonic() - started, 3)
        details = {**plain, **perturbation.details, "precision": precision, "seed": seed, "seconds": seconds}
        return Perturbation(values, self.budget, mask, self.name, details)


@dataclass(frozen=True)
class EncoderAttack(UniversalAttack):
    """Crafts one perturbation from an encoder and unlabelled images."""

    def __call__(self, encoder: nn.Module, surrogate: Tensor, *, seed: int = 0) -> Perturbation:
        """Craft.

        Args:
            encoder: Pixels (N, C, H, W) in [0, 1] to features (N, D); left as it was.
            surrogate: Images that the attacker has, (N, C, H, W) in [0, 1], at the size to attack.
            seed: Of the attack's random choices.

        Raises:
            AttackError: No surrogate images, pixels outside [0, 1], an encoder that gives NaN, or one that the attack
                cannot work on.
        """
        _check_images(self.name, surrogate)
        _check_outputs(self, encoder, surrogate)
        return self._craft(encoder, surrogate, lambda generator: self.run(encoder, surrogate, generator), seed)

    @abstractmethod
    def run(self, encoder: nn.Module, surrogate: Tensor, generator: torch.Generator) -> Perturbation:
        """Craft from ``surrogate`` (N, C, H, W) in [0, 1] a perturbation (C, H, W) of at most ``budget``.

        ``encoder`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """


@dataclass(frozen=True)
class UniversalModelAttack(UniversalAttack):
    """Crafts one perturbation from the whole classifier and labelled images."""

    def __call__(self, model: nn.Module, pixels: Tensor, labels: Tensor, *, seed: int = 0) -> Perturbation:
        """Craft.

        Args:
            model: Pixels (N, C, H, W) in [0, 1] to logits (N, K); left as it was.
            pixels: Images to craft on, (N, C, H, W) in [0, 1].
            labels: Their classes, (N,).
            seed: Of the attack's random choices.

        Raises:
            AttackError: No images, pixels outside [0, 1], labels missing or not classes of the model, or a model that
                gives NaN.
        """
        _check_images(self.name, pixels)
        _check_labels(self.name, labels, len(pixels), _check_outputs(self, model, pixels))
        return self._craft(model, pixels, lambda generator: self.run(model, pixels, labels, generator), seed)

    @abstractmethod
    def run(self, model: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Perturbation:
        """Craft from ``pixels`` (N, C, H, W) in [0, 1] and ``labels`` (N,) a perturbation (C, H, W).

        ``model`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """


@dataclass(frozen=True)
class SampleWiseAttack(Attack):
    """Perturbs every image by itself."""

    batch_size: ClassVar[int] = 250

    def __call__(self, model: Classifier, pixels: Tensor, labels: Tensor, *, seed: int = 0) -> Tensor:
        """Return adversarial images (N, C, H, W) in [0, 1], each within the budget of its original.

        Args:
            model: Pixels (N, C, H, W) in [0, 1] to logits (N, K); left as it was. A module, or, for attacks whose
                ``needs_gradient`` is False, any callable.
            pixels: Images, (N, C, H, W) in [0, 1].
            labels: Their classes, (N,).
            seed: Of the attack's random choices.

        Raises:
            AttackError: No images, pixels outside [0, 1], labels missing or not classes of the model, or a model that
                gives NaN, or no gradient where the attack needs one.
        """
        _check_images(self.name, pixels)
        _check_labels(self.name, labels, len(pixels), _check_outputs(self, model, pixels))
        generator = torch.Generator().manual_seed(seed)
        with frozen(model):
            parts = [
                self.run(model, images, targets, generator)
                for images, targets in zip(pixels.split(self.batch_size), labels.split(self.batch_size), strict=True)
            ]
        adversarial = torch.cat(parts).detach()
        if not torch.isfinite(adversarial).all():
            raise _not_finite(self.name, "ended in")
        # A mistake in an attack must not hand it a larger budget than the report states.
        return torch.clamp(adversarial, pixels - self.budget, pixels + self.budget).clamp(0, 1)

    @abstractmethod
    def run(self, model: Classifier, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Return ``pixels`` (N, C, H, W) in [0, 1] of classes ``labels`` (N,), perturbed by at most ``budget``.

        ``model`` is in eval mode with frozen weights, gradients are enabled, ``generator`` is on the CPU.
        """


@contextmanager
def frozen(target: object) -> Iterator[None]:
    """Context: gradients enabled, a module in eval mode and its weights without gradients; as before afterwards."""
    if not isinstance(target, nn.Module):
        with torch.enable_grad():
            yield
        return
    required = [(parameter, parameter.requires_grad) for parameter in target.parameters()]
    with inference_mode_of(target), torch.enable_grad():
        try:
            target.requires_grad_(False)
            yield
        finally:
            for parameter, before in required:
                parameter.requires_grad_(before)


def _check_images(name: str, pixels: Tensor) -> None:
    if pixels.ndim != 4 or pixels.numel() == 0 or not pixels.is_floating_point():
        raise AttackError(
            f"{name!r} was given images of shape {tuple(pixels.shape)} and type {pixels.dtype}.",
            expected="float (N, C, H, W), none of these 0",
        )
    low, high = (float(value) for value in torch.aminmax(pixels))
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise AttackError(
            f"{name!r} was given pixels from {low:g} to {high:g}.",
            expected="pixels in [0, 1]; normalisation belongs inside the model",
        )


def _check_labels(name: str, labels: Tensor | None, count: int, classes: int) -> None:
    if labels is None or labels.shape != (count,) or labels.is_floating_point():
        given = "no labels" if labels is None else f"labels of shape {tuple(labels.shape)} and type {labels.dtype}"
        raise AttackError(f"{name!r} was given {given}.", expected=f"whole numbers of shape ({count},)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise AttackError(
            f"{name!r} was given the label {low if low < 0 else high}, the model has {classes} classes.",
            expected=f"labels from 0 to {classes - 1}",
        )


def _check_outputs(attack: Attack, target: Classifier, pixels: Tensor) -> int:
    """Run two images, before minutes are spent on all, and return the width of the output."""
    with frozen(target), torch.set_grad_enabled(attack.needs_gradient):
        output = target(pixels[:2].detach().requires_grad_(attack.needs_gradient))
    if attack.needs_gradient and not output.requires_grad:
        raise AttackError(
            f"{attack.name!r} gets no gradient with respect to the input from this {type(target).__name__}.",
            expected="a differentiable module",
            remedy="use an attack that only asks for outputs, such as 'square', or replay a saved perturbation",
        )
    if not torch.isfinite(output).all():
        raise _not_finite(attack.name, "cannot start: the model gives")
    return int(output.shape[-1])


def _not_finite(name: str, what: str) -> AttackError:
    return AttackError(
        f"{name!r} {what} NaN or infinity.",
        expected="finite outputs and gradients",
        remedy="check the model's weights and its precision",
    )


def batches_forever(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of shuffled batches, epoch after epoch; every batch is whole where ``count`` allows it."""
    size = min(size, count)
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


REGISTRY: dict[str, type[Attack]] = {}
AttackType = TypeVar("AttackType", bound=type[Attack])


def register(attack: AttackType) -> AttackType:
    """Class decorator: make an attack known by its ``name``.

    Raises:
        AttackError: Another attack has that name.
    """
    known = REGISTRY.get(attack.name)
    if known is not None and known.__qualname__ != attack.__qualname__:
        raise AttackError(f"Two attacks are named {attack.name!r}: {known} and {attack}.", remedy="rename one")
    REGISTRY[attack.name] = attack
    return attack


def known_attacks() -> dict[str, type[Attack]]:
    """Return every registered attack by name, those of other packages' entry points included."""
    import genaf_sdk.attacks as built_in

    del built_in
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name not in REGISTRY:
            register(cast("type[Attack]", entry.load()))
    return dict(sorted(REGISTRY.items()))


def load_attack(attack: str | Attack) -> Attack:
    """Return an attack by name, ``"uapgd"``, or by name and settings, ``"uapgd:steps=50,budget=4/255"``.

    An attack passes as it is.

    Raises:
        AttackError: The name or a setting is unknown (the nearest ones are listed), or a value cannot be read.
    """
    if isinstance(attack, Attack):
        return attack
    name, _, settings = attack.partition(":")
    known = known_attacks()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or known
        raise AttackError(f"There is no attack {name!r}.", expected=f"one of {', '.join(near)}")
    fields = {field.name: field.default for field in dataclasses.fields(known[name])}
    values: dict[str, Any] = {}
    for pair in settings.split(",") if settings else ():
        key, _, text = pair.partition("=")
        if key not in fields:
            raise AttackError(f"{name!r} has no setting {key!r}.", expected=f"one of {', '.join(fields)}")
        values[key] = _read_setting(name, key, text, fields[key])
    return known[name](**values)


def _read_setting(name: str, key: str, text: str, default: object) -> object:
    """Read a value of the default's type; numbers may be fractions such as 8/255."""
    if isinstance(default, str):
        return text
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    try:
        numerator, _, denominator = text.partition("/")
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError) as error:
        raise AttackError(f"{key} of {name!r} is {text!r}.", expected="a number such as 50 or 8/255") from error
    return value if isinstance(default, float) else int(value)
