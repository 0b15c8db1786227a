"""What a bundle holds, and what its card states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from genaf_sdk.errors import ConfigError
from genaf_sdk.registry import nearest
from genaf_sdk.settings import Settings, Share

LICENSES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-
permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0
etalab-2.0 eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 intel-
research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
unlicense wtfpl zlib
""".split()  # noqa: SIM905  # a list of one name a line would fill the screen
"""Identifiers that the Hub takes in a model card."""


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
            ConfigError: The Hub does not know it, and would refuse the card.
        """
        if self.license and self.license not in LICENSES:
            raise ConfigError(
                f"license is {self.license!r}.",
                expected=f"an identifier of the Hub, such as {nearest(self.license, LICENSES)}, or nothing",
                remedy="use 'other' for a license that is not among them",
            )
