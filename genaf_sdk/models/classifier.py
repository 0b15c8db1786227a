"""The classifier: an encoder, then a head; pixels in, logits out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from genaf_sdk.errors import DataError
from genaf_sdk.inputs.images import ImageSpace
from genaf_sdk.models.modes import inference_mode_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from genaf_sdk.models.encoder import PixelEncoder


class Classifier(nn.Module):
    """A classifier on pixels: encoder, then head.

    Args:
        encoder: Pixels (N, C, H, W) to features (N, D).
        head: Features (N, D) to logits (N, K); one of ``build_head`` can be saved.
        class_names: K names, in the order of the logits.
        image_size: (H, W) of the images it was fine-tuned on.
    """

    def __init__(
        self, encoder: PixelEncoder, head: nn.Module, *, class_names: Sequence[str], image_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self.class_names, self.image_size = tuple(class_names), (int(image_size[0]), int(image_size[1]))

    @property
    def space(self) -> ImageSpace:
        """What the model's inputs are: images of its size with pixels in [0, 1]."""
        return ImageSpace((self.encoder.channels, *self.image_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (N, C, H, W) in [0, 1] to logits (N, K)."""
        logits: Tensor = self.head(self.encoder(pixels))
        return logits

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> list[str]:
        """Return the name of the most likely class of each image; pixels (N, C, H, W) in [0, 1].

        Raises:
            DataError: The images have another shape than the model's, or pixels outside [0, 1], as the server refuses
                them.
        """
        self.space.check(pixels, "The model", DataError)
        device = next(self.parameters()).device
        with inference_mode_of(self):
            return [self.class_names[index] for index in self(pixels.to(device)).argmax(dim=1).tolist()]


def describe_architecture(model: Classifier) -> dict[str, Any]:
    """Return what the report says of a model: encoder id, sizes, classes and number of parameters."""
    return {
        "encoder": model.encoder.source or type(model.encoder.backbone).__name__,
        "image_size": model.image_size,
        "channels": model.encoder.channels,
        "classes": len(model.class_names),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
