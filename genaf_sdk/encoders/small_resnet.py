"""The small residual network behind the bundled encoder: 32 x 32 pixels in, 192 features out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 40, 80, 192)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a projected shortcut; the first convolution halves the resolution."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(in_width, width, 1, stride=2, bias=False)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map maps (N, in_width, H, W) to (N, width, H / 2, W / 2)."""
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.norm3(self.shortcut(x)))


class SmallResNet(nn.Module):
    """A 3 x 3 stem, one residual block per resolution (16, 8, 4) and global average pooling.

    0.6 million parameters and 20 million multiply-adds per image, so that a whole hardening run fits in minutes on
    two CPU cores.
    """

    feature_dim = WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        self.blocks = nn.Sequential(*(ResidualBlock(before, after) for before, after in pairwise(WIDTHS)))

    def forward(self, x: Tensor) -> Tensor:
        """Map normalized images (N, 3, H, W) to features (N, 192)."""
        return torch.mean(self.blocks(F.relu(self.norm(self.stem(x)))), dim=(2, 3))
