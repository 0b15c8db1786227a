"""What a bundle holds, and what its card states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genaf_sdk.errors import ConfigError
from genaf_sdk.settings import Settings, Share


@dataclass(frozen=True)
class ExportConfig(Settings):
    """What a bundle holds beside ``model.onnx`` (fp32, float pixels), and what its card states."""

    precisions: tuple[Literal["fp16", "int8"], ...] = ("fp16",)
    """``fp16``: half precision inside. ``int8``: static quantization, calibrated on training images."""
    uint8_input: bool = False
    """Also write ``model.uint8.onnx``, which takes raw bytes (batch, H, W, C)."""
    tolerance: Share = 0.005
    """A file that loses more accuracy than this, clean or under a saved perturbation, is not written."""
    license: str = ""
    """The model's license for the card, in the Hub's spelling, such as ``apache-2.0``; empty states none."""

    def check(self) -> None:
        """Refuse a license that cannot be one of the Hub's.

        Raises:
            ConfigError: It holds other signs than letters, digits, points and dashes.
        """
        if not all(character.isalnum() or character in "-." for character in self.license):
            raise ConfigError(
                f"license is {self.license!r}.",
                expected="an identifier of the Hub, or nothing",
                remedy="use for example 'apache-2.0'",
            )
