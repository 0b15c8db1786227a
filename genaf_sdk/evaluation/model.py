"""The model under test, as the evaluation sees it: something that classifies, and what of it can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genaf_sdk.data.sampling import batch_size
from genaf_sdk.errors import AttackError
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.modes import full_precision, inference_mode_of
from genaf_sdk.models.parts import in_parts
from genaf_sdk.report.scores import Role


@dataclass(frozen=True)
class EvaluatedModel:
    """A model under test.

    Args:
        name: What a report calls it.
        classify: Pixels (N, C, H, W) in [0, 1] to logits (N, K).
        module: The same as a differentiable module, or None (an ONNX file, a remote model).
        encoder: The encoder inside, from pixels to features, which the adaptive column attacks; None where it is not
            known.
        device: Where pixels have to be.
        class_names: What the logits stand for; None where the model does not say.
    """

    name: Role
    classify: Callable[[Tensor], Tensor]
    module: nn.Module | None
    encoder: nn.Module | None
    device: torch.device
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, model: Any, name: Role, encoder: nn.Module | None = None) -> EvaluatedModel:
        """Wrap a ``HardenResult``, a module, a folder or file with an ONNX model, or any callable on pixels.

        Raises:
            AttackError: ``model`` is none of these.
        """
        if isinstance(model, (str, Path)):
            from genaf_sdk.export.runtime import OnnxModel

            model = OnnxModel(model)
        model = model_of(model)
        if isinstance(model, nn.Module):
            inner = encoder if encoder is not None else getattr(model, "encoder", None)
            parameter = next(model.parameters(), None)
            device = parameter.device if parameter is not None else torch.device("cpu")
            found = inner if isinstance(inner, nn.Module) else None
            return cls(name, model, model, found, device, _class_names(model))
        if not callable(model):
            raise AttackError(
                f"The model is a {type(model).__name__}.",
                expected="a HardenResult, an nn.Module, a bundle's folder, or a callable from pixels to logits",
            )
        return cls(name, model, None, encoder, torch.device("cpu"), _class_names(model))

    def copied(self, own: Callable[[nn.Module], nn.Module]) -> EvaluatedModel:
        """Return the model with the module that ``own`` gives for its own; a callable as it is."""
        if self.module is None:
            return self
        module = own(self.module)
        return replace(self, classify=module, module=module)

    def seen_on(self, pixels: Tensor) -> EvaluatedModel:
        """Return the model, without its encoder where that gets something else than pixels, as they are, from it.

        An attack on an encoder puts pixels into it. One that the model gives normalized images, say, is no function of
        pixels that is deployed: what is crafted on it does nothing to the model, and would flatter it.

        Args:
            pixels: A few images (N, C, H, W) in [0, 1].

        Raises:
            AttackError: The model gives NaN, or something else than logits (N, K).
        """
        if self.encoder is None or self.module is None or isinstance(self.encoder, PixelEncoder):
            return self
        given: list[Any] = []
        hook = self.encoder.register_forward_pre_hook(
            lambda _, plain, named: given.extend((*plain, *named.values())), with_kwargs=True
        )
        try:
            self.logits(pixels)
        finally:
            hook.remove()
        takes_pixels = any(isinstance(value, Tensor) and torch.equal(value.cpu(), pixels.cpu()) for value in given)
        return self if takes_pixels else replace(self, encoder=None)

    def predict(self, pixels: Tensor) -> Tensor:
        """Return the class of each image, int64 (N,) on the CPU.

        Raises:
            AttackError: The model gives NaN, or something else than logits (N, K).
        """
        return torch.cat([logits.argmax(dim=1).cpu() for logits in self.logits(pixels)])

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> list[Tensor]:
        """Return the logits (n, K) of images (N, C, H, W), batch by batch, on a GPU without TF32.

        Raises:
            AttackError: The model gives NaN, or something else than logits (N, K).
        """
        parts = []
        mode = inference_mode_of(self.module) if self.module is not None else torch.no_grad()
        with mode, full_precision(self.device):
            for batch in pixels.split(batch_size(pixels.shape[1:])):
                inputs = batch.to(self.device)
                given = self.classify(inputs) if self.module is None else in_parts(self.classify, inputs)
                logits = torch.as_tensor(given)
                if logits.ndim != 2 or len(logits) != len(batch):
                    raise AttackError(
                        f"The {self.name} model returns {tuple(logits.shape)} for {len(batch)} images.",
                        expected="logits (N, K)",
                    )
                if not torch.isfinite(logits).all():
                    raise AttackError(f"The {self.name} model returns NaN or infinity.", expected="finite logits")
                parts.append(logits)
        return parts


def is_result(model: Any) -> bool:
    """Whether ``model`` is a result that holds a classifier as ``model``, rather than something that classifies itself.

    A user's wrapper with an attribute of that name classifies: what it does to the pixels belongs to the model.
    """
    return not callable(model) and isinstance(getattr(model, "model", None), nn.Module)


def model_of(model: Any) -> Any:
    """Return the classifier of a result; anything else as it is."""
    return model.model if is_result(model) else model


def published_encoder(encoder: Any, model: Any = None) -> nn.Module | None:
    """Return the encoder that the transfer column attacks.

    Args:
        encoder: A module as it is, a classifier of this package (its encoder), an id (loaded), or None.
        model: Where ``encoder`` is None: a result that knows what it was made from.
    """
    if encoder is None:
        encoder = getattr(model, "published", None) if is_result(model) else None
    if encoder is None or isinstance(encoder, PixelEncoder):
        return encoder
    inner = getattr(encoder, "encoder", None)
    if isinstance(encoder, nn.Module) and isinstance(inner, PixelEncoder):
        return inner
    from genaf_sdk.encoders import load_encoder

    return load_encoder(encoder)


def _class_names(model: Any) -> tuple[str, ...] | None:
    names = getattr(model, "class_names", None)
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) and names else None
