"""Which measured figures are upper bounds: those from before an attack, or tries of it, that may leave less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from genaf_sdk.inputs.keys import Knowledge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genaf_sdk.report.scores import Score

Threat = Literal["perturbation", "patch"]

NEWEST = "cluster-patch"
"""Attack that came last, together with more tries of ``cluster-uap``. Perturbations and patches are from before it."""
OF_SEVERAL_PLACES = "encoder-patch"
"""Attack that has climbed at several places since: patches are from before that."""
AT_MOST = "≤ "
"""Before a figure that these attacks, or what begins where they ended, may lower."""


def bounded(scores: Iterable[Score]) -> set[Threat]:
    """Return the threats of a row whose figures are upper bounds."""
    chosen = list(scores)
    if NEWEST not in {score.attack for score in chosen}:
        return {"perturbation", "patch"}
    places = [score for score in chosen if score.attack == OF_SEVERAL_PLACES and score.column == Knowledge.ADAPTIVE]
    return {"patch"} if not places or any(score.tries == 1 for score in places) else set()
