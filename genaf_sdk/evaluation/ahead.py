"""What an evaluation can begin with: attacks that were made, or begun, before there was a model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import torch

from genaf_sdk.attacks.base import Attack
from genaf_sdk.attacks.batches import sharing_features
from genaf_sdk.errors import AttackError
from genaf_sdk.evaluation.chosen import chosen_attacks
from genaf_sdk.evaluation.crafting import Crafting
from genaf_sdk.evaluation.kept import Kept
from genaf_sdk.evaluation.model import EvaluatedModel
from genaf_sdk.evaluation.row import Begun
from genaf_sdk.evaluation.scoring import Attacked, Place
from genaf_sdk.evaluation.workers import Workers
from genaf_sdk.inputs.images import image_space
from genaf_sdk.inputs.keys import Knowledge
from genaf_sdk.inputs.perturbation import Perturbation
from genaf_sdk.report.scores import Role

if TYPE_CHECKING:
    from torch import Tensor, nn

    from genaf_sdk.evaluation.settings import EvaluationConfig

Transferred = list[tuple[Attack, list[Perturbation]]]
"""What attacks made of a published encoder: each with its tries."""


@dataclass(frozen=True)
class Ahead:
    """Attacks that need the published encoder or a baseline alone, done or on their way before there is a model.

    Args:
        workers: Who does them, and then the rest of the evaluation; None where they are done.
        on_attack: Is called with a line of text before each attack.
        begun: Universal attacks.
        each: Images that are attacked each by itself.
    """

    workers: Workers | None = None
    on_attack: Callable[[str], object] = str
    begun: tuple[Begun, ...] = ()
    each: dict[Place, Future[Attacked]] = field(default_factory=dict)

    @classmethod
    def of(cls, transferred: Transferred) -> Self:
        """Return what was crafted from training images, for any number of evaluations."""
        begun = []
        for attack, tries in transferred:
            future: Future[list[Perturbation]] = Future()
            future.set_result(tries)
            begun.append(Begun(Knowledge.TRANSFER, attack, (), "train", future))
        return cls(begun=tuple(begun))


def transferred(
    encoder: nn.Module,
    images: Tensor,
    config: EvaluationConfig,
    seed: int,
    on_attack: Callable[[str], object] = str,
    kept: Kept | None = None,
) -> Transferred:
    """Return all that an evaluation crafts on a published encoder.

    Args:
        encoder: The published encoder.
        images: The attacker's (N, C, H, W) in [0, 1].
        config: Which attacks; those that are not on encoders are passed over.
        seed: Of every random choice.
        on_attack: Called with a line of text before each attack.
        kept: What was crafted before; gets what is crafted now.

    Raises:
        AttackError: An attack failed.
    """
    images = image_space(images).arranged(images)
    under_test = EvaluatedModel.of(encoder, Role.HARDENED)
    sources, seeds = {"train": images}, config.attack_seeds
    crafting = Crafting(
        [under_test], encoder, sources, torch.empty(0), seed, on_attack, kept=kept or Kept(), seeds=seeds
    )
    attacks = chosen_attacks(config.attacks, config)
    with sharing_features(), Workers.suited([encoder], images.shape[-2] * images.shape[-1]) as workers:
        begun = [one for attack in attacks for one in crafting.begin_transferred(attack, workers)]
        for one in begun:
            with crafting.costs_a_row(one.attack.name, one.column):
                one.future.result()
    if crafting.failures:
        raise lacking(crafting.failures[0].text)
    return [(one.attack, one.made()) for one in begun]


def lacking(reason: str) -> AttackError:
    """Return the error of a comparison in which an attack failed, for a ``reason``."""
    return AttackError(
        f"A row would lack an attack: {reason}.",
        expected="every method under every attack",
        remedy="leave the attack out for all (evaluation), or mend what it failed of and go on",
    )
