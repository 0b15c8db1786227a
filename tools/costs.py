"""Processor seconds of rows, with a mark where another kind of processor trained them than most."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.rows import ComparisonRow

USUAL = "x86_64 AVX512"
"""What trained most of the rows in docs/results."""
OTHER = "†"
"""After the time of one that did not."""


def cpu_seconds(rows: Sequence[ComparisonRow], share: float = 1.0) -> str:
    """Return the median over the seeds of a method, or a share of it."""
    mark = OTHER if any(row.processor != USUAL for row in rows) else ""
    return f"{share * statistics.median(row.cpu_seconds for row in rows):.0f}{mark}"
