"""What turns features into logits: the paper's head, and those to choose from.

A head is a class with a ``name``, built of ``feature_dim``, ``classes`` and its settings. That of another package is
found by an entry point of the group ``genaf_sdk.heads``, whose name is the head's.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.errors import EncoderError
from genaf_sdk.registry import Registry

DEFAULT = "mlp"
"""The head of models that name none."""
CHOICE = "built_as"
"""The attribute of a head that says how ``build_head`` built it."""

HEADS: Registry[Any] = Registry("head", "genaf_sdk.heads", EncoderError)


@HEADS.register
class MLPHead(nn.Sequential):
    """The paper's: D -> D -> D -> K with ReLU, and dropout after the first layer.

    Args:
        feature_dim: D, the features of the encoder.
        classes: K, the number of classes.
        dropout: Share of the hidden features that training drops.

    Source: Gen-AF (Zhou et al., IEEE S&P 2024).
    """

    name: ClassVar[str] = DEFAULT

    def __init__(self, feature_dim: int, classes: int, dropout: float = 0.2) -> None:
        super().__init__(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, classes),
        )


@HEADS.register
class LinearHead(nn.Linear):
    """One linear layer, D -> K.

    Args:
        feature_dim: D, the features of the encoder.
        classes: K, the number of classes.
    """

    name: ClassVar[str] = "linear"

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__(feature_dim, classes)


@HEADS.register
class CosineHead(nn.Module):
    """Cosine of the angles between features and one direction a class, times a scale that is learned.

    The length of the features does not matter, only their direction.

    Source: Gidaris and Komodakis, CVPR 2018.

    Args:
        feature_dim: D, the features of the encoder.
        classes: K, the number of classes.
        scale: What the cosines are multiplied by when training starts.
    """

    name: ClassVar[str] = "cosine"

    def __init__(self, feature_dim: int, classes: int, scale: float = 10.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, feature_dim))
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)  # as nn.Linear; only the directions matter

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, K)."""
        return self.scale * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


def build_head(name: str, feature_dim: int, classes: int, **settings: Any) -> nn.Module:
    """Return a fresh head, drawn with torch's generator.

    Args:
        name: ``mlp`` (the paper's), ``linear``, ``cosine``, or one of another package.
        feature_dim: D, the features of the encoder.
        classes: K, the number of classes.
        **settings: The head's own, such as ``dropout`` of ``mlp``; they are saved with the model.

    Returns:
        A module from features (N, D) to logits (N, K).

    Raises:
        EncoderError: There is no such head (the nearest names are listed), or it does not take the settings.
    """
    kind = HEADS[name]
    try:
        head = cast("nn.Module", kind(feature_dim, classes, **settings))
    except (TypeError, ValueError, RuntimeError) as error:
        raise EncoderError(
            f"The head {name!r} cannot be built for {feature_dim} features and {classes} classes with {settings}: "
            f"{error}.",
            expected=f"settings that {name!r} takes",
        ) from error
    setattr(head, CHOICE, {"name": name, "feature_dim": feature_dim, **settings})
    return head


def head_choice(head: nn.Module) -> dict[str, Any]:
    """Return what ``build_head`` was called with, but for the number of classes.

    Raises:
        EncoderError: The head is no head of ``build_head``, so nothing could build it again.
    """
    choice: dict[str, Any] | None = getattr(head, CHOICE, None)
    if choice is None:
        raise EncoderError(
            f"The head is a {type(head).__name__}, which no name describes; the model could not be loaded again.",
            expected=f"a head of build_head: {', '.join(HEADS.items())}",
            remedy="make the class known by an entry point of the group genaf_sdk.heads",
        )
    return dict(choice)
