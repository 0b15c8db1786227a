"""The model under test, as the evaluation sees it: something that classifies, and what of it can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaf_sdk.errors import AttackError
from genaf_sdk.models.classifier import Classifier
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.modes import inference_mode_of

BATCH = 500


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Args:
        name: ``hardened`` or ``undefended`` in a report.
        classify: Pixels (N, C, H, W) in [0, 1] to logits (N, K).
        module: The same as a differentiable module, or None (an ONNX file, a remote model).
        encoder: The encoder inside, which the adaptive column attacks, or None where it is not known.
        device: Where pixels have to be.
    """

    name: str
    classify: Callable[[Tensor], Tensor]
    module: nn.Module | None
    encoder: nn.Module | None
    device: torch.device

    @classmethod
    def of(cls, model: Any, name: str, encoder: nn.Module | None = None) -> Subject:
        """Wrap a ``HardenResult``, a module, a folder or file with an ONNX model, or any callable on pixels.

        Raises:
            AttackError: ``model`` is none of these.
        """
        if isinstance(model, (str, Path)):
            from genaf_sdk.export.runtime import OnnxModel

            model = OnnxModel(model)
        model = getattr(model, "model", model)
        if isinstance(model, nn.Module):
            inner = encoder if encoder is not None else getattr(model, "encoder", None)
            parameter = next(model.parameters(), None)
            device = parameter.device if parameter is not None else torch.device("cpu")
            return cls(name, model, model, inner if isinstance(inner, nn.Module) else None, device)
        if not callable(model):
            raise AttackError(
                f"The model is a {type(model).__name__}.",
                expected="a HardenResult, an nn.Module, a bundle's folder, or a callable from pixels to logits",
            )
        return cls(name, model, None, encoder, torch.device("cpu"))

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Tensor:
        """Return the class of each image, int64 (N,) on the CPU.

        Raises:
            AttackError: The model gives NaN, or something else than logits (N, K).
        """
        parts = []
        mode = inference_mode_of(self.module) if self.module is not None else torch.no_grad()
        with mode:
            for batch in pixels.split(BATCH):
                logits = torch.as_tensor(self.classify(batch.to(self.device)))
                if logits.ndim != 2 or len(logits) != len(batch):
                    raise AttackError(
                        f"The {self.name} model returns {tuple(logits.shape)} for {len(batch)} images.",
                        expected="logits (N, K)",
                    )
                if not torch.isfinite(logits).all():
                    raise AttackError(f"The {self.name} model returns NaN or infinity.", expected="finite logits")
                parts.append(logits.argmax(dim=1).cpu())
        return torch.cat(parts)


def published_encoder(encoder: Any) -> nn.Module | None:
    """Return the encoder that the transfer column attacks: a module as it is, an id loaded, None as None."""
    if encoder is None or isinstance(encoder, PixelEncoder):
        return encoder
    if isinstance(encoder, Classifier):
        return encoder.encoder
    from genaf_sdk.encoders import load_encoder

    return load_encoder(encoder)
