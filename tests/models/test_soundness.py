"""Encoders that only look like one are named before anything is trained; sound ones pass and are left as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.errors import EncoderError
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.soundness import require_sound


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1)

    def features(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.norm(self.conv1(x)))).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class DropsAlways(Base):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.features(x), 0.5)


class Remembers(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        self.bank = 0.5 * self.bank + 0.5 * features.detach().mean(0)
        return features - self.bank


class Whitens(Base):
    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return features - features.mean(0)


class BatchStatistics(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)


class Squeezes(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).squeeze()


class Constant(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) * 0 + 1


class Detaches(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x.detach())


class Rounds(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(torch.round(x * 255) / 255)


class Numpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(torch.from_numpy(x.detach().numpy()))


class NoGradient(Base):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


class Auxiliary(Base):
    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return (self.features(x), self.features(x)) if self.training else self.features(x)


class Wider(Base):
    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        return torch.cat([features, features], 1) if self.training else features


DEFECTS = {
    DropsAlways: "second pass",
    Remembers: "second pass",
    Whitens: "by itself",
    BatchStatistics: "by itself",
    Squeezes: r"by itself|output is shape",
    Constant: "same features for every image",
    Detaches: "No gradient",
    Rounds: "No gradient",
    Numpy: "No gradient",
    NoGradient: "No gradient",
    Auxiliary: "training mode",
    Wider: "training mode",
}


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_is_named(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(kind()).eval()
    with pytest.raises(EncoderError, match=DEFECTS[kind]):
        require_sound(encoder, (16, 16))


class Drops(Base):
    """Dropout that follows the mode, as it should."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.features(x), 0.5, self.training)


@pytest.mark.parametrize("kind", [Base, Drops])
def test_a_sound_encoder_passes_and_is_left_as_it_was(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    encoder = PixelEncoder(kind()).eval()
    before, random = copy.deepcopy(encoder.state_dict()), torch.get_rng_state()
    assert require_sound(encoder, (16, 16)) == []
    torch.testing.assert_close(encoder.state_dict(), before, rtol=0, atol=0)
    assert not any(part.training for part in encoder.modules())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize(("end", "word"), [(nn.Softmax(1), "softmax"), (nn.Linear(8, 1000), "1000 features")])
def test_outputs_of_a_classifier_are_doubted(end: nn.Module, word: str) -> None:
    torch.manual_seed(0)
    (doubt,) = require_sound(PixelEncoder(nn.Sequential(Base(), end)).eval(), (16, 16))
    assert word in doubt.text + doubt.remedy
