"""What turns features into logits."""

from __future__ import annotations

from torch import nn


class Head(nn.Sequential):
    """The paper's classifier on top of the encoder: D -> D -> D -> K with ReLU, dropout after the first layer."""

    def __init__(self, feature_dim: int, classes: int, dropout: float = 0.2) -> None:
        super().__init__(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, classes),
        )
