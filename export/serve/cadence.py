"""How many images go through a graph at once on a processor: found out at the start, as it depends on its caches."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RUNS = 3
"""Of each size; the fastest counts, as others may use the processor."""
SECONDS = 3.0
"""From which on no larger size is tried."""
SLACK = 0.05
"""By which an image may take longer in a larger batch: large ones answer more requests at once."""
WORSE = 1.2
"""Times the best at which larger sizes are not tried: what has outgrown the caches does not come back."""


def fastest_batch(seconds_of: Callable[[int], float], largest: int) -> int:
    """Return the largest number of images that a graph runs about as fast as any, by the image.

    A small network whose activations outgrow the caches takes half as long again for an image in a batch of 32 as in
    one of four; a ResNet is fastest in large batches.

    Args:
        seconds_of: Runs a batch of so many images and returns how long it took.
        largest: Most images; it is also what is returned where time ran out before they were tried.
    """
    taken, best = 0.0, float("inf")
    fastest: dict[int, float] = {}
    for size in [*(2**power for power in range(largest.bit_length()) if 2**power < largest), largest]:
        if taken > SECONDS:
            return largest
        runs = [seconds_of(size) for _ in range(RUNS)]
        taken += sum(runs)
        fastest[size] = min(runs) / size
        best = min(best, fastest[size])
        if fastest[size] > WORSE * best:
            break
    return max(size for size, seconds in fastest.items() if seconds <= (1 + SLACK) * best)
