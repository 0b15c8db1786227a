"""Every setting of a hardening run: frozen, checked when made, written to and read from JSON.

Budgets are fractions of the pixel range [0, 1]: ``8 / 255`` is eight grey levels.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from genaf_sdk.errors import ConfigError


def _check(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} is {value!r}.", expected=expected, remedy=f"set {name} accordingly")


def _check_positive_integers(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(isinstance(value, int) and value >= 1, name, value, "a whole number of at least 1")


def _check_range(config: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _check(low <= value <= high, name, value, f"a number from {low:g} to {high:g}")


@dataclass(frozen=True)
class AdversaryConfig:
    """What stage 1 trains against.

    ``pgd``: every image gets its own perturbation that raises the cross-entropy (the paper). ``pgd-kl``: the same, but
    it moves the prediction away from that on the clean image, whatever the label (TRADES). ``mixed``: of each batch,
    ``sample_wise_share`` gets sample-wise steps started from a shared universal perturbation, ``patch_share`` a shared
    patch at a random place, the rest a shared universal perturbation as it is. Shared ones learn from the gradient of
    the training step.
    ``none``: ordinary fine-tuning.
    """

    kind: Literal["mixed", "pgd", "pgd-kl", "none"] = "mixed"
    budget: float = 8 / 255
    """L_inf budget of sample-wise perturbations."""
    step_size: float = 10 / 255
    steps: int = 2
    universal_budget: float = 12 / 255
    """L_inf budget of the shared universal perturbations: somewhat more than the attacks' 10/255."""
    bank_size: int = 8
    """How many universal perturbations, and how many patches, are kept."""
    redraw_every: int = 40
    """After so many steps one perturbation of the bank starts anew, so that the bank does not go stale."""
    sample_wise_share: float = 0.375
    patch_share: float = 0.125
    patch_area: float = 0.035

    def __post_init__(self) -> None:
        kinds = typing.get_args(typing.get_type_hints(AdversaryConfig)["kind"])
        _check(self.kind in kinds, "kind", self.kind, f"one of {', '.join(kinds)}")
        _check_positive_integers(self, "steps", "bank_size", "redraw_every")
        _check_range(self, 1e-6, 1.0, "budget", "step_size", "universal_budget", "patch_area")
        _check_range(self, 0.0, 1.0, "sample_wise_share", "patch_share")
        total = self.sample_wise_share + self.patch_share
        _check(total <= 1, "sample_wise_share + patch_share", total, "at most 1; the rest is universal perturbations")


@dataclass(frozen=True)
class DualTrackConfig:
    """Stage 1, genetic-directed dual-track adversarial fine-tuning: two optimizers, up to four loss terms."""

    epochs: int = 20
    batch_size: int = 128
    """Over all processes."""
    encoder_learning_rate: float | None = None
    """None: by the encoder's size, see ``encoder_step``."""
    head_learning_rate: float = 5e-3
    weight_decay: float = 8e-4
    schedule: Literal["cosine", "exponential"] = "cosine"
    """``exponential`` multiplies by 0.96 an epoch, as the paper does; ``cosine`` warms up, then falls to zero."""
    objective: Literal["dual-track", "trades", "mart"] = "dual-track"
    """The loss: Gen-AF's, whose weights follow, or that of a baseline (``methods/baselines.py``)."""
    adversarial_weight: float = 2.0
    clean_weight: float = 1.0
    genetic_weight: float = 1.0
    """Lambda, for the loss as a mean over rows (the authors' sum over pairs divided by the batch size)."""
    alignment_weight: float = 0.0
    """Weight of 1 - cos(g(x_adv), g(x)), which the paper does not have and which was not found to help."""
    divergence_weight: float = 6.0
    """Weight of the divergence between both predictions in TRADES and MART (their beta and lambda)."""
    freeze_encoder: bool = False
    """Train the head alone; batch statistics of the encoder stay too."""
    shift: int = 2
    """Augmentation: random translation by up to so many pixels (edges repeated)."""
    augmentation: Literal["none", "flip", "crop", "trivial"] = "none"
    """Of training images, in both stages: ``flip`` mirrors half of them; ``crop`` also cuts out half to all of the
    area; ``trivial`` also makes one random change (TrivialAugment, Müller & Hutter, ICCV 2021)."""
    adversary: AdversaryConfig = field(default_factory=AdversaryConfig)

    def __post_init__(self) -> None:
        kinds = ("none", "flip", "crop", "trivial")
        _check(self.augmentation in kinds, "augmentation", self.augmentation, f"one of {', '.join(kinds)}")
        _check_positive_integers(self, "epochs")
        _check(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2: batch statistics and L_gr need pairs")
        _check_range(self, 1e-8, 10.0, "head_learning_rate")
        if self.encoder_learning_rate is not None:
            _check_range(self, 1e-8, 10.0, "encoder_learning_rate")
        weights = [f.name for f in dataclasses.fields(self) if f.name.endswith("_weight")]
        _check_range(self, 0.0, 1e6, *weights)
        _check_range(self, 0.0, 1.0, "weight_decay")
        _check_range(self, 0, 64, "shift")
        objectives = typing.get_args(typing.get_type_hints(DualTrackConfig)["objective"])
        _check(self.objective in objectives, "objective", self.objective, f"one of {', '.join(objectives)}")
        _check(self.schedule in ("cosine", "exponential"), "schedule", self.schedule, "'cosine' or 'exponential'")
        _check(
            self.adversarial_weight + self.clean_weight > 0, "adversarial_weight + clean_weight", 0, "a positive sum"
        )

    def encoder_step(self, parameters: int) -> float:
        """Return the encoder's learning rate: that which is set, or one for an encoder of so many parameters.

        3e-3 suits the bundled encoder of 0.6 million. Larger ones get a step that falls with their width, as Adam asks
        for (Yang et al., Tensor Programs V, 2022), taken to be the root of their size: ResNet-18 7e-4, ViT-S 5e-4.
        """
        if self.encoder_learning_rate is not None:
            return self.encoder_learning_rate
        return 3e-3 * min(1.0, math.sqrt(6e5 / max(parameters, 1)))

    @property
    def is_single_track(self) -> bool:
        """Whether the loss is the cross-entropy on adversarial images alone."""
        others = (self.clean_weight, self.genetic_weight, self.alignment_weight)
        return self.objective == "dual-track" and not any(others)


@dataclass(frozen=True)
class SensitivityConfig:
    """Robust sensitivity: how far the adversarial loss can rise when one layer's weight moves."""

    method: Literal["fast", "exact"] = "fast"
    """``exact`` measures every layer, ``fast`` those that may be among the redundant ones."""
    radius: float = 0.1
    """The perturbation's Frobenius norm, as a share of the weight's."""
    steps: int = 3
    samples: int = 256
    """How many adversarial training images the loss is measured on."""

    def __post_init__(self) -> None:
        _check(self.method in ("fast", "exact"), "method", self.method, "'fast' or 'exact'")
        _check_positive_integers(self, "steps", "samples")
        _check_range(self, 1e-6, 10.0, "radius")


@dataclass(frozen=True)
class AdaptabilityConfig:
    """Stage 2, evolutionary adaptability fine-tuning: the least sensitive layers learn from clean data alone."""

    redundant_fraction: float = 0.2
    """Share of the layers that is fine-tuned; at least one layer is."""
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 8e-4
    interpolations: int = 5
    """How many points between the stage-1 and the fine-tuned weights the guard tries."""
    tolerance: float = 0.0
    """How far robust validation accuracy may fall below stage 1's, as a share of the images."""

    def __post_init__(self) -> None:
        _check(self.epochs >= 0, "epochs", self.epochs, "at least 0 (0 skips stage 2)")
        _check_positive_integers(self, "interpolations", "batch_size")
        _check_range(self, 1e-6, 1.0, "redundant_fraction")
        _check_range(self, 1e-8, 10.0, "learning_rate")
        _check_range(self, 0.0, 1.0, "weight_decay", "tolerance")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a model is checked. Attacks on an encoder fill the transfer and adaptive columns, the others white-box."""

    attacks: tuple[str, ...] = (
        "advencoder-per:batch_size=128,noise_maps=8",
        "advencoder-pat:batch_size=128,noise_maps=8",
        "uapgd:steps=100",
        "label-uap:steps=100",
        "pgd",
    )
    """Names, or names with settings: ``pgd:steps=50,budget=4/255``."""
    perturbation_budget: float = 10 / 255
    """L_inf budget of universal perturbations. Patches keep the area that their attack states."""
    sample_wise_budget: float = 8 / 255
    surrogate_samples: int = 512
    """How many images a universal perturbation is crafted on."""
    test_samples: int | None = None
    """How many test images universal perturbations are scored on; None is all."""
    sample_wise_samples: int = 250
    """How many test images a sample-wise attack is scored on."""
    curve: tuple[float, ...] = (4 / 255, 10 / 255, 16 / 255)
    """Budgets at which accuracy is drawn as a curve; empty draws none."""
    checks: bool = True
    """Whether to look for signs of gradient masking (Carlini et al. 2019)."""

    def __post_init__(self) -> None:
        _check(len(self.attacks) > 0, "attacks", self.attacks, "at least one attack; `genaf attack --help` lists them")
        _check_positive_integers(self, "surrogate_samples", "sample_wise_samples")
        _check(self.test_samples is None or self.test_samples >= 1, "test_samples", self.test_samples, "at least 1")
        _check_range(self, 1e-6, 1.0, "perturbation_budget", "sample_wise_budget")
        for budget in self.curve:
            _check(0 < budget <= 1, "curve", budget, "budgets above 0 and at most 1, such as 8 / 255")


@dataclass(frozen=True)
class ExportConfig:
    """What a bundle holds beside ``model.onnx`` (fp32, float pixels), and what its card states."""

    precisions: tuple[Literal["fp16", "int8"], ...] = ("fp16",)
    """``fp16``: half precision inside. ``int8``: static quantisation, calibrated on training images."""
    uint8_input: bool = False
    """Also write ``model.uint8.onnx``, which takes raw bytes (batch, H, W, C)."""
    tolerance: float = 0.005
    """A file that loses more accuracy than this, clean or under a saved perturbation, is not written."""
    license: str = ""
    """The model's licence for the card, in the Hub's spelling, such as ``apache-2.0``; empty states none."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.precisions) - {"fp16", "int8"})
        _check(not unknown, "precisions", self.precisions, "'fp16' and 'int8'; fp32 is always written")
        spelled = all(character.isalnum() or character in "-." for character in self.license)
        _check(spelled, "license", self.license, "an identifier of the Hub, such as 'apache-2.0', or nothing")
        _check_range(self, 0.0, 1.0, "tolerance")


@dataclass(frozen=True)
class LoadingConfig:
    """How ``load_data`` reads the images."""

    balance: Literal["none", "repeat"] = "none"
    """``repeat``: training images of smaller classes are repeated, so that all classes are seen equally often."""
    skip_corrupt: bool = False
    """Leave out images that cannot be read, which the report says, rather than refuse the data."""
    download: bool = False
    """Whether a data set that is not on this machine may be downloaded."""

    def __post_init__(self) -> None:
        _check(self.balance in ("none", "repeat"), "balance", self.balance, "'none' or 'repeat'")


@dataclass(frozen=True)
class HardenConfig:
    """A whole run. ``HardenConfig.preset("paper")`` gives the paper's hyper-parameters."""

    method: str = "gen-af"
    """What this is a configuration of: a name in ``presets.py``, for the report."""
    seed: int = 0
    undefended_epochs: int = 16
    """How long the "before" model, the same encoder fine-tuned without defence, is trained."""
    undefended_encoder_learning_rate: float = 1e-4
    """Its encoder step: the paper's. Larger ones leave the public encoder behind and are a weak defence themselves."""
    validation_fraction: float = 0.15
    """Share of the training data that is set aside where the data set has no validation split."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """``auto`` is bf16 where the device has it natively (GPUs since Ampere, AVX512-BF16, AMX), else no."""
    sync_batch_norm: bool = True
    """Whether batch norm uses the global batch of all processes, so that their number does not change the result."""
    micro_batch_size: int | None = None
    """Most images of a process that are attacked and trained on at once, where memory is short; None: its whole share
    of the batch. The losses are still those of the whole batch; batch norm sees a micro-batch at a time."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do with a step whose loss or gradient is NaN or infinite; more than a tenth of the steps always stops."""
    loading: LoadingConfig = field(default_factory=LoadingConfig)
    dual_track: DualTrackConfig = field(default_factory=DualTrackConfig)
    sensitivity: SensitivityConfig = field(default_factory=SensitivityConfig)
    adaptability: AdaptabilityConfig = field(default_factory=AdaptabilityConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    export: ExportConfig = field(default_factory=ExportConfig)

    def __post_init__(self) -> None:
        _check(0 <= self.seed < 2**31, "seed", self.seed, "a whole number from 0 to 2147483647")
        _check(self.non_finite in ("stop", "skip"), "non_finite", self.non_finite, "'stop' or 'skip'")
        _check_positive_integers(self, "undefended_epochs")
        micro = self.micro_batch_size
        _check(
            micro is None or micro >= 2, "micro_batch_size", micro, "at least 2: batch statistics need pairs; or None"
        )
        _check_range(self, 1e-8, 10.0, "undefended_encoder_learning_rate")
        _check_range(self, 0.01, 0.5, "validation_fraction")

    @classmethod
    def preset(cls, name: str) -> HardenConfig:
        """Return a named configuration, such as ``default``, ``fast``, ``paper`` or a baseline: see ``presets.py``.

        Raises:
            ConfigError: There is no preset of that name.
        """
        from genaf_sdk.presets import preset

        return preset(name).config

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain objects, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> HardenConfig:
        """Read what ``to_dict`` wrote. Missing settings take their defaults.

        Raises:
            ConfigError: A setting is unknown, of another type or out of range.
        """
        return typing.cast("HardenConfig", _from_dict(cls, content, ""))


def _from_dict(cls: type[Any], content: Any, path: str) -> Any:
    if not isinstance(content, dict):
        raise ConfigError(f"{path or 'The configuration'} is {content!r}.", expected="a JSON object")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(content) - set(hints))
    if unknown:
        raise ConfigError(f"Unknown setting {path}{unknown[0]!r}.", expected=f"one of {', '.join(sorted(hints))}")
    values: dict[str, Any] = {}
    for name, value in content.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _from_dict(typing.cast("type[Any]", hint), value, f"{path}{name}.")
        else:
            values[name] = _convert(hint, value, f"{path}{name}")
    return cls(**values)


def _convert(hint: Any, value: Any, name: str) -> Any:
    """Check ``value`` against a type hint made of int, float, str, bool, Literal, optional and tuples of str."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        _check(value in arguments, name, value, f"one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _convert(next(a for a in arguments if a is not types.NoneType), value, name)
    if origin is tuple:
        _check(isinstance(value, (list, tuple)), name, value, "a list")
        return tuple(_convert(arguments[0], item, name) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    matches = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _check(matches, name, value, f"a value of type {hint.__name__}")
    return value
