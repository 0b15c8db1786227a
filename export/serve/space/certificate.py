"""What a bundle's report proves, so that the same masks can be tried on another picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

REPORT_FILE = "report.json"


@dataclass(frozen=True)
class Certificate:
    """The certificates of a report, by double masking.

    Args:
        area: Of the patch, a share of the image.
        patch: Most rows and columns of a patch.
        masks_per_axis: At most so many masks an axis.
        fill: What masked pixels become, one number in [0, 1] a channel.
        certified: On how many of the ``n`` test images no patch changes the right answer.
        n: How many were tried.
    """

    area: float
    patch: tuple[int, int]
    masks_per_axis: int
    fill: tuple[float, ...]
    certified: int
    n: int


def read_certificate(folder: Path) -> Certificate | None:
    """Return the certificates in a bundle's report, or None where there is no report or none in it.

    Raises:
        BundleError: The report cannot be read.
    """
    path = folder / REPORT_FILE
    if not path.is_file():
        return None
    try:
        section = json.loads(path.read_text("utf-8")).get("certificate")
        if section is None:
            return None
        rows, columns = section["patch"]
        return Certificate(
            float(section["area"]), (int(rows), int(columns)), int(section["masks_per_axis"]),
            tuple(map(float, section["fill"])), int(section["certified"]), int(section["n"]),
        )  # fmt: skip
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", remedy="download the bundle again") from error
