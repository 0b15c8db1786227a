"""What a run is made of before it begins: settings, encoder, images, an untrained classifier."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from genaf_sdk._version import __version__
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.errors import ConfigError, DataError, EncoderError
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods import METHODS, Method, presets
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.fingerprint import encoder_fingerprint
from genaf_sdk.models.heads import DEFAULT, build_head
from genaf_sdk.models.tuning import TuningConfig, freeze
from genaf_sdk.registry import unknown

if TYPE_CHECKING:
    from torch import nn

AFTER_TRAINING = ("evaluation", "export")
"""Groups of settings that no trained weight depends on: a run may be resumed with others."""


@dataclass(frozen=True)
class Candidate:
    """A run that has not begun.

    Args:
        published: The encoder.
        model: A classifier on a copy of it, untrained.
        data: The images.
        config: The settings.
        accelerator: What it would run on.
        folder: Its output folder, or None.
        evaluate: Whether the model is to be attacked.
    """

    published: PixelEncoder
    model: HardenedModel
    data: DataSplits
    config: HardenConfig
    accelerator: Accelerator
    folder: Path | None
    evaluate: bool = True

    @property
    def is_alone(self) -> bool:
        """Whether there is one process: several would have to try in step with one another."""
        return bool(self.accelerator.num_processes == 1)


def resolved(config: HardenConfig | str | None, method: str | Method | None) -> HardenConfig:
    """Return the settings that ``harden`` was asked for.

    Raises:
        ConfigError: There is no such preset or method, or ``config`` is something else.
    """
    if config is None and isinstance(method, str):
        if method in presets():
            return HardenConfig.preset(method)
        try:
            METHODS[method]
        except ConfigError as error:
            if not error.expected:  # it is there, and cannot be loaded
                raise
            raise unknown(error.problem, method, sorted({*presets(), *METHODS.items()}), ConfigError) from error
    if config is None or isinstance(config, str):
        config = HardenConfig.preset(config or "default")
    if not isinstance(config, HardenConfig):
        raise ConfigError(f"config is a {type(config).__name__}.", expected="a HardenConfig or the name of a preset")
    if method is None:
        return config
    chosen = Method.from_value(method, "method")
    return config.with_(method=chosen.with_(schedule=config.method.schedule) if isinstance(method, str) else chosen)


def load_published(encoder: str | nn.Module, tuning: TuningConfig) -> PixelEncoder:
    """Return a copy of the encoder on the CPU, in eval mode, with what is not to be trained frozen.

    Raises:
        EncoderError: It cannot be loaded, or has no part that ``tuning`` names.
    """
    published = copy.deepcopy(load_encoder(encoder)).cpu().eval()
    freeze(published, tuning)
    return published


def load_images(dataset: Any, published: PixelEncoder, config: HardenConfig, folder: Path | None = None) -> DataSplits:
    """Return the images as the encoder takes them.

    Args:
        dataset: As for ``load_data``.
        published: The encoder, which states channels, size and interpolation.
        config: Seed of the splits, and settings of loading.
        folder: Gets the results, and is no part of the images; None where there is none.

    Raises:
        DataError: They cannot be used, or were split before and have another number of channels.
    """
    data = load_data(
        dataset,
        image_size=published.image_size,
        channels=published.channels,
        interpolation=published.interpolation,
        seed=config.seed,
        leave_out=folder,
        **config.loading.to_dict(),
    )
    channels = data.image_shape[0]
    if channels != published.channels:
        raise DataError(
            f"The images of {data.name!r} have {channels} channel(s), and the encoder takes {published.channels}.",
            expected=f"images of {published.channels} channel(s)",
            remedy=f"load_data(..., channels={published.channels}), or an encoder of load_encoder(..., "
            f"channels={channels})",
        )
    return data


def new_classifier(published: PixelEncoder, data: DataSplits, seed: int, *, head: str = DEFAULT) -> HardenedModel:
    """Put a fresh head on a copy of the encoder.

    Args:
        published: The encoder.
        data: Its classes and the size of its images count.
        seed: Of torch's generator, which draws the head's weights and goes on from there.
        head: As for ``build_head``.

    Raises:
        EncoderError: The encoder refuses images of that size, or there is no such head.
    """
    feature_dim = published.feature_dim(data.image_shape[1:])
    torch.manual_seed(seed)
    module = build_head(head, feature_dim, len(data.class_names))
    return HardenedModel(
        copy.deepcopy(published), module, class_names=data.class_names, image_size=data.image_shape[1:]
    )


def new_candidate(
    published: PixelEncoder,
    data: DataSplits,
    config: HardenConfig,
    accelerator: Accelerator,
    folder: Path | None,
    *,
    evaluate: bool = True,
) -> Candidate:
    """Return the run that is to be tried before it begins; torch's generator is left as it was.

    Args:
        published: The encoder, as ``load_published`` gave it.
        data: The images, as ``load_images`` gave them.
        config: Of the run.
        accelerator: What it computes on.
        folder: Where it writes; None where it does not.
        evaluate: Whether a report is wanted, for which there is an undefended classifier, too.
    """
    with kept_random_state():
        model = new_classifier(published, data, config.seed, head=config.head)
    return Candidate(published, model, data, config, accelerator, folder, evaluate)


def frozen_parameters(published: PixelEncoder) -> frozenset[str]:
    """Return the names, in a classifier, of the encoder's parameters that its user froze.

    Raises:
        EncoderError: All of them are.
    """
    parameters = {f"encoder.{name}": parameter.requires_grad for name, parameter in published.named_parameters()}
    frozen = frozenset(name for name, required in parameters.items() if not required)
    if parameters and len(frozen) == len(parameters):
        raise EncoderError(
            "All parameters of the encoder are frozen.",
            expected="parameters with requires_grad=True: frozen ones stay as they are",
            remedy="call encoder.requires_grad_(True); the preset 'linear-probe' trains the head alone all the same",
        )
    return frozen


def run_identity(published: PixelEncoder, data: DataSplits, config: HardenConfig) -> dict[str, Any]:
    """Return what a resumed run must share with the one that was started, as JSON: all that training depends on.

    Args:
        published: The encoder: its weights and normalization count, and which weights are frozen.
        data: Its fingerprint counts.
        config: All but what is done after training.

    Raises:
        EncoderError: All parameters of the encoder are frozen.
    """
    frozen = sorted(frozen_parameters(published))
    identity: dict[str, Any] = json.loads(
        json.dumps(
            {
                "genaf_sdk": __version__,
                "encoder": encoder_fingerprint(published),
                "data": data.describe()["fingerprint"],
                "config": {key: value for key, value in config.to_dict().items() if key not in AFTER_TRAINING},
                **({"frozen": frozen} if frozen else {}),
            }
        )
    )
    return identity
