"""Accuracy against budget: UAPGD on the published and on the own encoder, PGD on the whole model."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from genaf_sdk.attacks.base import Attack, EncoderAttack
from genaf_sdk.attacks.registry import load_attack
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.evaluation.crafting import Row
from genaf_sdk.inputs.keys import Knowledge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from genaf_sdk.evaluation.crafting import Crafting
    from genaf_sdk.evaluation.model import EvaluatedModel
    from genaf_sdk.inputs.perturbation import Perturbation

UNIVERSAL, SAMPLE_WISE = "uapgd", "pgd"


def curve_rows(
    crafting: Crafting, budgets: Sequence[float], chosen: Sequence[Attack], table: Sequence[Row]
) -> list[tuple[float, Row]]:
    """Return a row for every point of the curve of the hardened model, by budget.

    A row of the table that holds the same attack, budget, images and model is taken from there; others are crafted, on
    training images, and belong to the curve alone.
    """
    named = {attack.name: attack for attack in reversed(chosen)}
    universal, sample_wise = (named.get(name) or load_attack(name) for name in (UNIVERSAL, SAMPLE_WISE))
    model = crafting.models[0]
    encoders = {Knowledge.TRANSFER: crafting.public, Knowledge.ADAPTIVE: model.encoder}
    found: list[tuple[float, Row]] = []
    for budget in budgets:
        crafting.on_attack(f"curve: {budget * 255:.3g}/255")
        attack = universal.with_budget(budget)
        for column, encoder in encoders.items():
            row = _same(table, Row(model, column, attack, source="train"))
            if row is None and encoder is not None and isinstance(attack, EncoderAttack):
                with crafting.costs_a_row(f"curve {attack.name}", column, model.name):
                    crafted = _crafted(crafting, attack, encoder, _begun(table, model, column))
                    row = Row(model, column, attack, crafted, "train")
            found += [(budget, row)] if row is not None else []
        each = Row(model, Knowledge.WHITE_BOX, sample_wise.with_budget(budget), source="test")
        if model.module is not None:
            found.append((budget, _same(table, each) or each))
    return found


def _begun(table: Sequence[Row], model: EvaluatedModel, column: Knowledge) -> Perturbation | None:
    """Return the perturbation that the table has of the curve's attack, at its own budget."""
    rows = (row for row in table if row.model is model and row.column == column and row.name == UNIVERSAL)
    return next((row.perturbation for row in rows if row.perturbation is not None), None)


def _crafted(crafting: Crafting, attack: EncoderAttack, encoder: nn.Module, begun: Perturbation | None) -> Perturbation:
    """Craft; where the table has a perturbation, in a quarter of the steps from there, scaled to the budget."""
    images = crafting.sources["train"]
    if begun is None or not isinstance(attack, UAPGD):
        return crafting.craft(attack, encoder, images)
    start = replace(begun, values=begun.values * (attack.budget / begun.budget), threat=attack.threat)
    return crafting.craft(replace(attack, trials=1, steps=max(1, attack.steps // 4)), encoder, images, start=start)


def _same(table: Sequence[Row], wanted: Row) -> Row | None:
    def identity(row: Row) -> tuple[object, ...]:
        return row.model.name, row.column, row.attack, row.source

    return next((row for row in table if identity(row) == identity(wanted)), None)
