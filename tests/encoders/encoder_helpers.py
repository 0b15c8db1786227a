"""What the tests of several encoder sources share."""

from __future__ import annotations

import os
from pathlib import Path


class Bomb:
    """Pickles that create a file when they are read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.target}",)
