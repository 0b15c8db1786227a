"""The classifier as training needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from genaf_sdk.models.classifier import Classifier


class FeaturesAndLogits(nn.Module):
    """Features and logits of one pass of a classifier.

    The accelerator prepares this module, which may put its forward pass in a lower precision for good. The classifier
    itself stays the float32 function that is measured and deployed.
    """

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Map inputs (N, ...) to features (N, D) and logits (N, K)."""
        features = self.encoder(inputs)
        return features, self.head(features)
