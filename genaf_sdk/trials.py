"""What a comparison measures: a method with a seed, trained and attacked, in this process or in another."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from genaf_sdk.config import HardenConfig
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.checkpoints import FOLDER, Checkpoints, open_checkpoints
from genaf_sdk.engine.cost import processor
from genaf_sdk.engine.randomness import kept_random_state
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import train
from genaf_sdk.errors import ConfigError, DataError, RunStoppedError
from genaf_sdk.estimates import settled_machine
from genaf_sdk.evaluation.ahead import Ahead, Transferred, lacking, transferred
from genaf_sdk.evaluation.chosen import stated_attacks
from genaf_sdk.evaluation.evaluate import evaluate
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.memory import reused_memory
from genaf_sdk.methods.lab import Clock
from genaf_sdk.models.fingerprint import encoder_fingerprint
from genaf_sdk.models.heads import HEADS
from genaf_sdk.preflight import require_ready
from genaf_sdk.preparation import frozen_parameters, load_images, load_published, new_candidate, run_identity
from genaf_sdk.progress import make_display
from genaf_sdk.registry import code_of_others
from genaf_sdk.rows import ComparisonRow
from genaf_sdk.settings import Settings
from genaf_sdk.training import trainings
from genaf_sdk.unfinished import Unfinished

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.data import DataSplits
    from genaf_sdk.hardened import HardenedModel
    from genaf_sdk.models.encoder import PixelEncoder

logger = logging.getLogger(__name__)


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
        return _transferred(config, *self.group.load(config), self.group.folder, progress=False)


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
        return measure(self.method, self.config, public, data, self.crafted, self.group.folder, progress=False)


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
        code=code_of_others([*_kinds(config.method), HEADS[config.head]]),
    )


def _kinds(settings: Settings) -> Iterator[type]:
    """Yield the classes of settings, and of those inside them: a method, what it trains against, and the like."""
    yield type(settings)
    for inner in vars(settings).values():
        if isinstance(inner, Settings):
            yield from _kinds(inner)


def measure(
    name: str,
    config: HardenConfig,
    public: PixelEncoder,
    data: DataSplits,
    crafted: Transferred,
    folder: Path | None,
    progress: bool | None,
) -> ComparisonRow:
    """Train one method, and attack it with what is ``crafted`` for all, by the first, and with its own.

    Args:
        name: Of the method, for the row.
        config: Its settings, its seed, and the attacks.
        public: The published encoder, which it trains a copy of.
        data: The images.
        crafted: What is the same for all methods of the encoder and the seed; filled by the first of them.
        folder: Of the comparison. What is done there already is not done again; None keeps nothing.
        progress: As for ``harden``.

    Raises:
        AttackError: An attack failed.
        RunStoppedError: SIGTERM came.
    """
    row = row_without_scores(name, config, public, data.fingerprint)
    if not crafted:
        crafted += _transferred(config, public, data, folder, progress)
    clock = Clock()
    with Unfinished(folder).cell(row) as own:
        model, attacks, facts = _trained(row, config, public, data, own, clock, progress)
        published = copy.deepcopy(public)  # attacks take it to the model's device
        with make_display(progress) as display:
            task = display.add_task(f"{name}, seed {config.seed}:", total=None)
            report = evaluate(
                model,
                data,
                encoder=published,
                config=config.evaluation,
                seed=config.seed,
                on_attack=lambda attack: display.update(task, figures=attack),
                ahead=Ahead.of(crafted),
                kept=Kept(attacks),
            )
    failed = [failure.text for failure in report.failures if failure.part == "attack"]
    if failed:
        raise lacking(failed[0])
    seconds, cpu_seconds = (round(sum(parts.values()), 3) for parts in (clock.seconds, clock.cpu_seconds))
    scores = tuple(report.scores)
    return replace(row, scores=scores, seconds=seconds, cpu_seconds=cpu_seconds, **facts)


@reused_memory()
def _trained(
    row: ComparisonRow, config: HardenConfig, public: PixelEncoder, data: DataSplits, folder: Path | None,
    clock: Clock, progress: bool | None,
) -> tuple[HardenedModel, Path | None, dict[str, Any]]:  # fmt: skip
    """Train one method as ``harden`` does, or go on in ``folder``: model, where attacks are kept, facts for the row.

    Raises:
        RunStoppedError: SIGTERM came.
    """
    published = load_published(public, config.tuning)
    with own_accelerator(config.machine.mixed_precision) as engine:
        candidate = new_candidate(published, data, config, engine, None, evaluate=False)
        run = Run(engine, config.seed, show_progress=progress, machine=settled_machine(candidate))
        run.checkpoints = _checkpoints(folder, run_identity(published, data, config), run)
        try:
            with (
                run.termination.listening(),
                run.progress,
                kept_random_state(),
                trainings(run, candidate, clock) as both,
            ):
                for stage in both.stages():
                    train(run, both.model, data, stage)
                both.end()
        except RunStoppedError as error:
            told = f"{row.method}, seed {row.seed} was stopped by SIGTERM; "
            if run.checkpoints.folder is None:
                remedy = "pass output_dir, where no other process is at this row, to be able to go on"
                raise RunStoppedError(f"{told}nothing was saved.", remedy=remedy) from error
            remedy = "start the same comparison again: it goes on with this row"
            raise RunStoppedError(f"{told}progress was saved.", remedy=remedy) from error
        rates = {stage: test.chosen for stage, test in run.range_tests.items()}
        facts = {"processor": processor(engine.device), "learning_rates": rates}
        return both.model.eval(), run.checkpoints.attacks, facts


def _checkpoints(folder: Path | None, identity: dict[str, Any], run: Run) -> Checkpoints:
    """Return those of a row; what another version, or machine, kept there is replaced.

    Several processes of accelerate keep none: one of them has the folder, and all would have to go on alike.
    """
    if folder is None or run.processes.count > 1:
        return Checkpoints()
    try:
        return open_checkpoints(folder, identity, run.processes, resume=(folder / FOLDER).is_dir())
    except ConfigError as error:
        logger.warning("%s The row is trained anew.", error.problem)
        return open_checkpoints(folder, identity, run.processes, resume=False, overwrite=True)


def _transferred(
    config: HardenConfig, public: PixelEncoder, data: DataSplits, folder: Path | None, progress: bool | None
) -> Transferred:
    """Craft what is the same for all methods, perturbations from the published encoder; first see that one can train.

    Raises:
        AttackError: An attack failed.
    """
    published = load_published(public, config.tuning)
    with own_accelerator(config.machine.mixed_precision) as engine:  # before the clock of any row starts
        require_ready(new_candidate(published, data, config, engine, None, evaluate=False), str)
        published.to(engine.device)
    pixels, _ = data.train.sample(config.evaluation.surrogate_samples, seed=config.seed)
    with make_display(progress) as display:
        task = display.add_task(f"published encoder, seed {config.seed}:", total=None)
        return transferred(
            published,
            pixels,
            config.evaluation,
            config.seed,
            lambda attack: display.update(task, figures=attack),
            Kept(Unfinished(folder).transferred),
        )
