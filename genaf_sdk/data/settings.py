"""How images are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from genaf_sdk.settings import Between, Settings


@dataclass(frozen=True)
class LoadingConfig(Settings):
    """How ``load_data`` reads the images."""

    validation_fraction: Annotated[float, Between(0.01, 0.5)] = 0.15
    """Share of the training data that is set aside where the data set has no validation split."""
    balance: Literal["none", "repeat"] = "none"
    """``repeat``: training images of smaller classes are repeated, so that all classes are seen equally often."""
    skip_corrupt: bool = False
    """Skip unreadable images and list them in the report, instead of refusing the data."""
    download: bool = False
    """Whether a data set that is not on this machine may be downloaded."""
