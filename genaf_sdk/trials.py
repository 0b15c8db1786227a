"""What a comparison measures: a method with a seed, trained and attacked, in this process or in another."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from genaf_sdk.config import HardenConfig
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.errors import DataError, RunStoppedError
from genaf_sdk.evaluation.ahead import Ahead, Transferred, lacking, transferred
from genaf_sdk.evaluation.chosen import stated_attacks
from genaf_sdk.evaluation.evaluate import evaluate
from genaf_sdk.models.fingerprint import encoder_fingerprint
from genaf_sdk.pipeline import harden
from genaf_sdk.preflight import require_ready
from genaf_sdk.preparation import frozen_parameters, load_images, load_published, new_candidate
from genaf_sdk.progress import make_display
from genaf_sdk.rows import ComparisonRow

if TYPE_CHECKING:
    from genaf_sdk.data import DataSplits
    from genaf_sdk.models.encoder import PixelEncoder


@dataclass(frozen=True)
class Group:
    """Images of one seed, read in one way, and what is still to be measured on them.

    Args:
        encoder: As for ``compare``.
        dataset: As for ``compare``.
        folder: Where results go, which are no part of the images.
        fingerprint: That of the images.
        missing: Settings by name.
    """

    encoder: str | nn.Module
    dataset: Any
    folder: Path | None
    fingerprint: str
    missing: dict[str, HardenConfig]

    def load(self, config: HardenConfig) -> tuple[PixelEncoder, DataSplits]:
        """Return encoder and images, in the process that works on them.

        Raises:
            DataError: The images are not those of the process that compares.
        """
        public = load_encoder(self.encoder)
        data = load_images(self.dataset, public, config, self.folder)
        found = replace(data).fingerprint  # anew: what was computed elsewhere travels along
        if found != self.fingerprint:
            raise DataError(
                f"{data.name!r} has the fingerprint {found} where the cell runs, and {self.fingerprint} here.",
                expected="the same images on every machine",
            )
        return data.space.placed(public), data


@dataclass(frozen=True)
class Crafting:
    """A cell: perturbations that are transferred to all methods of a group."""

    group: Group

    def __call__(self) -> Transferred:
        """Craft."""
        config = next(iter(self.group.missing.values()))
        return _transferred(config, *self.group.load(config), progress=False)


@dataclass(frozen=True)
class Measuring:
    """A cell: one method with one seed."""

    group: Group
    method: str
    config: HardenConfig
    crafted: Transferred

    def __call__(self) -> ComparisonRow:
        """Train and attack."""
        public, data = self.group.load(self.config)
        return measure(self.method, self.config, public, data, self.crafted, progress=False)


def row_without_scores(method: str, config: HardenConfig, public: PixelEncoder, fingerprint: str) -> ComparisonRow:
    """Return all that is known of a row before it is measured: what it is told from others by.

    Raises:
        AttackError: An attack, or a setting of one, is unknown.
        EncoderError: All parameters of the encoder are frozen.
    """
    return ComparisonRow(
        method,
        config.seed,
        config.to_dict(),
        fingerprint,
        scores=(),
        seconds=0.0,
        cpu_seconds=0.0,
        encoder=encoder_fingerprint(public),
        frozen=tuple(sorted(frozen_parameters(public))),
        attacks=stated_attacks(config.evaluation),
    )


def measure(
    name: str,
    config: HardenConfig,
    public: PixelEncoder,
    data: DataSplits,
    crafted: Transferred,
    progress: bool | None,
) -> ComparisonRow:
    """Train one method, and attack it with what is ``crafted`` for all, by the first, and with its own.

    Args:
        name: Of the method, for the row.
        config: Its settings, its seed, and the attacks.
        public: The published encoder, which it trains a copy of.
        data: The images.
        crafted: What is the same for all methods of the encoder and the seed; filled by the first of them.
        progress: As for ``harden``.

    Raises:
        AttackError: An attack failed.
        RunStoppedError: SIGTERM came.
    """
    row = row_without_scores(name, config, public, data.fingerprint)
    if not crafted:
        crafted += _transferred(config, public, data, progress)
    started, started_cpu = time.monotonic(), time.process_time()
    try:
        result = harden(public, data, config, progress=progress, evaluate=False, preflight=False)
    except RunStoppedError as error:  # which speaks of checkpoints, and a row has none
        raise RunStoppedError(
            f"{name}, seed {config.seed} was stopped by SIGTERM; rows that were done before are kept.",
            remedy="start the same comparison again: it goes on with this row",
        ) from error
    seconds, cpu_seconds = time.monotonic() - started, time.process_time() - started_cpu
    with make_display(progress) as display:
        task = display.add_task(f"{name}, seed {config.seed}:", total=None)
        report = evaluate(
            result.model,
            data,
            encoder=public,
            config=config.evaluation,
            seed=config.seed,
            on_attack=lambda attack: display.update(task, figures=attack),
            ahead=Ahead.of(crafted),
        )
    failed = [failure.text for failure in report.failures if failure.part == "attack"]
    if failed:
        raise lacking(failed[0])
    return replace(row, scores=tuple(report.scores), seconds=round(seconds, 3), cpu_seconds=round(cpu_seconds, 3))


def _transferred(config: HardenConfig, public: PixelEncoder, data: DataSplits, progress: bool | None) -> Transferred:
    """Craft what is the same for all methods, perturbations from the published encoder; first see that one can train.

    Raises:
        AttackError: An attack failed.
    """
    published = load_published(public, config.tuning)
    with own_accelerator(config.machine.mixed_precision) as engine:  # before the clock of any row starts
        require_ready(new_candidate(published, data, config, engine, None, evaluate=False), str)
    pixels, _ = data.train.sample(config.evaluation.surrogate_samples, seed=config.seed)
    with make_display(progress) as display:
        task = display.add_task(f"published encoder, seed {config.seed}:", total=None)
        return transferred(
            public, pixels, config.evaluation, config.seed, lambda attack: display.update(task, figures=attack)
        )
