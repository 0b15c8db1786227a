"""Accuracy against budget: UAPGD on the published and on the own encoder, PGD on the whole model.

Only what the evaluation runs anyway is drawn: without UAPGD and PGD among its attacks there is no curve.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from genaf_sdk.attacks.base import Attack, EncoderAttack
from genaf_sdk.attacks.uapgd import UAPGD
from genaf_sdk.evaluation.row import Begun, Row
from genaf_sdk.inputs.keys import Knowledge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from genaf_sdk.evaluation.crafting import Crafting
    from genaf_sdk.evaluation.workers import Workers
    from genaf_sdk.inputs.perturbation import Perturbation

UNIVERSAL, SAMPLE_WISE = "uapgd", "pgd"
T = TypeVar("T", bound=Attack)


def begin_curve(
    crafting: Crafting, budgets: Sequence[float], chosen: Sequence[Attack], each: Sequence[Row], workers: Workers
) -> list[tuple[float, Begun | Row]]:
    """Return what makes every point of the curve of the hardened model, by budget.

    A perturbation that the table has, of the same attack, budget, images and model, is taken from there; others are
    crafted, on training images, and belong to the curve alone. Rows of images attacked each by itself, which are filled
    in later, are likewise taken from those of the table, ``each``.
    """
    universal, sample_wise = drawn_attacks(chosen)
    model = crafting.models[0]
    encoders = {Knowledge.TRANSFER: crafting.public, Knowledge.ADAPTIVE: model.encoder}
    found: list[tuple[float, Begun | Row]] = []
    for budget in budgets:
        for column, encoder in encoders.items():
            if encoder is None or not isinstance(universal, EncoderAttack):
                continue
            attack = universal.with_budget(budget)
            table = [one for one in crafting.begun if one.column == column and model in one.models]
            same = next((one for one in table if one.attack == attack and one.source == "train"), None)
            begun = next((one for one in table if one.attack.name == UNIVERSAL), None)
            found.append((budget, same or _begin(crafting, workers, attack, column, encoder, begun)))
        if sample_wise is not None and model.module is not None:
            row = Row(model, Knowledge.WHITE_BOX, sample_wise.with_budget(budget), source="test")
            found.append((budget, _same(each, row) or row))
    return found


def drawn_attacks(chosen: Sequence[Attack]) -> tuple[Attack | None, Attack | None]:
    """Return the universal and the sample-wise attack of the curve, as the table has them; None where it has not."""
    named = {attack.name: attack for attack in reversed(chosen)}
    return named.get(UNIVERSAL), named.get(SAMPLE_WISE)


def _begin(
    crafting: Crafting,
    workers: Workers,
    attack: EncoderAttack,
    column: Knowledge,
    encoder: nn.Module,
    begun: Begun | None,
) -> Begun:
    """Have one crafted; where the table has a perturbation, from there, scaled."""
    shorter = attack if begun is None else shortened(attack)

    def start(_: int) -> Perturbation | None:
        made = next(iter(begun.made() if begun is not None else ()), None)
        if made is None or not isinstance(attack, UAPGD):
            return None
        return replace(made, values=made.values * (attack.budget / made.budget), threat=attack.threat)

    text, images = f"curve: {column} {attack.budget * 255:.3g}/255", crafting.sources["train"]
    future = crafting.craft(workers, text, shorter, encoder, images, crafting.models[0], start)
    return Begun(column, attack, (crafting.models[0],), "train", future)


def shortened(attack: T) -> T:
    """Return what crafts a point of the curve from a perturbation of the table: a quarter of the steps."""
    return replace(attack, goals=0, steps=max(1, attack.steps // 4)) if isinstance(attack, UAPGD) else attack


def curve_rows(
    crafting: Crafting, points: Sequence[tuple[float, Begun | Row]], table: Sequence[Row]
) -> list[tuple[float, Row]]:
    """Return a row for every point, by budget: that of the ``table`` where it has it; none where crafting failed."""
    rows: list[tuple[float, Row]] = []
    for budget, point in points:
        if isinstance(point, Row):
            rows.append((budget, point))
            continue
        model = crafting.models[0]
        wanted = Row(model, point.column, point.attack, source=point.source)
        row = _same(table, wanted)
        if row is None and point not in crafting.begun:
            with crafting.costs_a_row(f"curve {point.attack.name}", point.column, model.name):
                row = replace(wanted, perturbation=point.future.result()[0])
        rows += [(budget, row)] if row is not None else []
    return rows


def _same(table: Sequence[Row], wanted: Row) -> Row | None:
    def identity(row: Row) -> tuple[object, ...]:
        return row.model.name, row.column, row.attack, row.source

    return next((row for row in table if identity(row) == identity(wanted)), None)
