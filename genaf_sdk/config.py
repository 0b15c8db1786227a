"""Every setting of a hardening run: frozen, checked when made, written to and read from JSON.

Budgets are fractions of the pixel range [0, 1]: ``8 / 255`` is eight gray levels. Each room of the package has its own
settings; here they come together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from genaf_sdk.data.settings import LoadingConfig
from genaf_sdk.earlier import settings_of_today
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.errors import ConfigError
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.export.settings import ExportConfig
from genaf_sdk.methods import FineTuning, GenAF, Method, presets
from genaf_sdk.models.heads import DEFAULT, HEADS
from genaf_sdk.models.tuning import TuningConfig
from genaf_sdk.registry import unknown
from genaf_sdk.settings import Count, LearningRate, Seed, Settings


@dataclass(frozen=True)
class BaselineConfig(Settings):
    """The "before" of the report: the same encoder with standard fine-tuning.

    Batch size, the head's learning rate and augmentation are those of the method.
    """

    epochs: Count = 16
    """Passes over the training images."""
    encoder_learning_rate: LearningRate = 1e-4
    """The paper's. Larger ones leave the public encoder behind, and are a weak defense themselves."""


@dataclass(frozen=True)
class HardenConfig(Settings):
    """A whole run. ``HardenConfig.preset("paper")`` gives the paper's hyper-parameters.

    ``loading``, ``evaluation``, ``export`` and ``machine`` say how images are read, how the model is measured, what is
    written and what the machine needs; ``seed``, ``method``, ``head`` and ``tuning`` say what is trained.
    """

    seed: Seed = 0
    """Of everything random: splits, weights of the head, batches, perturbations, attacks."""
    method: Method = GenAF()
    """The training method and its settings; in Python also the name of a preset."""
    head: str = DEFAULT
    """What turns features into logits: `mlp`, the paper's and the one that was measured, `linear` or `cosine`."""
    tuning: TuningConfig = TuningConfig()
    """Which of the encoder's weights are trained, by the method and by the baseline."""
    baseline: BaselineConfig = BaselineConfig()
    loading: LoadingConfig = LoadingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    machine: MachineConfig = MachineConfig()

    def check(self) -> None:
        """Refuse a head that nobody knows.

        Raises:
            ConfigError: There is none of that name.
        """
        if self.head not in HEADS:
            raise unknown(f"There is no head {self.head!r}.", self.head, HEADS.items(), ConfigError)

    @classmethod
    def preset(cls, name: str) -> Self:
        """Return a named configuration, such as ``default``, ``fast``, ``paper`` or a baseline.

        ``genaf compare --list`` describes them; each is a strength of a method (``genaf_sdk/methods/``).

        Raises:
            ConfigError: There is no preset of that name.
        """
        known = presets()
        if name not in known:
            raise unknown(f"There is no preset {name!r}.", name, known, ConfigError)
        method, strength = known[name]
        return cls(method=method().with_(**strength.changes), baseline=BaselineConfig().with_(**strength.baseline))

    @classmethod
    def from_dict(cls, content: Any, path: str = "") -> Self:
        """Read what ``to_dict`` wrote, of earlier versions, too. Settings that are missing take their defaults.

        Args:
            content: A JSON object.
            path: What errors write before a setting's name.

        Raises:
            ConfigError: A setting is unknown, of another type or out of range.
        """
        return super().from_dict(settings_of_today(content), path)

    def standard_fine_tuning(self) -> FineTuning:
        """Return the baseline as a method."""
        schedule = self.method.schedule.with_(
            epochs=self.baseline.epochs, encoder_learning_rate=self.baseline.encoder_learning_rate
        )
        return FineTuning(schedule=schedule)
