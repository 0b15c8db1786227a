"""Which measured rows are upper bounds: those from before the newest attack, which may leave less."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from genaf_sdk.report.scores import Score

NEWEST = "cluster-patch"
"""Attack that came last, together with more tries of ``cluster-uap``."""
AT_MOST = "≤ "
"""Before a figure of such a row that this attack, or what begins where it ended, may lower."""


def is_earlier(scores: Iterable[Score]) -> bool:
    """Return whether the newest attack was not run."""
    return NEWEST not in {score.attack for score in scores}
