"""``PATH.pt2``: programs that torch.export saved, architecture and weights in one file."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from genaf_sdk.errors import EncoderError

if TYPE_CHECKING:
    from pathlib import Path

    from genaf_sdk.encoders.source import EncoderOptions
    from genaf_sdk.models.encoder import PixelEncoder


def load_program(path: Path, options: EncoderOptions) -> PixelEncoder:
    """Return the program as an encoder; its weights can be trained, its modes are as they were when it was saved.

    A program is code: reading one runs Python's pickle. So the caller has to say that its origin is trusted.

    Raises:
        EncoderError: ``trusted`` is not set, a normalization is not passed, or torch cannot read the file.
    """
    if not options.trusted:
        raise EncoderError(
            f"{str(path)!r} is a program of torch.export, and reading it can run any code that its maker put there.",
            expected="a file whose origin you trust",
            remedy=f"load_encoder({str(path)!r}, trusted=True), or ask for its weights as .safetensors",
        )
    if options.mean is None or options.std is None or options.image_size is None:
        raise EncoderError(
            f"The program {str(path)!r} does not say how its images are normalized.",
            expected="mean=, std= and image_size=; mean=(0,), std=(1,) for a program that takes pixels in [0, 1]",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations inside its reader
            module = torch.export.unflatten(torch.export.load(path))
    except Exception as error:  # torch.export raises whatever its readers raise
        raise EncoderError(
            f"The program {str(path)!r} cannot be read: {error}.", expected="a file of torch.export.save"
        ) from error
    for part in module.modules():  # traced example values, which cannot be copied
        for node in getattr(getattr(part, "graph", None), "nodes", ()):
            node.meta.clear()
    return options.encoder(module, source="")
