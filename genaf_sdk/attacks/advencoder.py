"""AdvEncoder: the generator and its training, which the perturbation and the patch form share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.attacks.base import EncoderAttack
from genaf_sdk.attacks.batches import endless_batches
from genaf_sdk.attacks.climbing import FIRST_LOOKS, settled
from genaf_sdk.attacks.losses import high_frequencies, info_nce
from genaf_sdk.attacks.targets import FeatureTarget
from genaf_sdk.models.forwards import forward_in
from genaf_sdk.models.parts import in_parts
from genaf_sdk.precision import resolve
from genaf_sdk.settings import Count, LearningRate

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.attacks.targets import Success

NOISE_DIM = 100
LOOKS = 10  # at the held-out images, spread evenly over the training


class TransposedConv(nn.Module):
    """A 4 x 4 transposed convolution without bias, as one matrix product and a fold.

    The same function as ``nn.ConvTranspose2d``; for few small maps twice as fast on a CPU.
    """

    def __init__(self, channels: int, width: int, stride: int, padding: int, random: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(channels, width, 4, 4)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=random))
        self.stride, self.padding = stride, padding

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', H, W)."""
        count, channels, height, width = maps.shape
        products = maps.permute(0, 2, 3, 1).reshape(-1, channels) @ self.weight.flatten(1)
        columns = products.view(count, height * width, -1).transpose(1, 2)
        rise = 4 - 2 * self.padding - self.stride
        size = (height * self.stride + rise, width * self.stride + rise)
        return F.fold(columns, size, 4, stride=self.stride, padding=self.padding)


class Generator(nn.Module):
    """DCGAN-shaped: fixed noise (B, 100, 1, 1) -> B maps of tanh values -> one map (C, H, W), a 3 x 3 mix of the B.

    Transposed convolutions double the size from 4 up to the first power of two that holds the image, which is then cut
    from the middle; at 64 pixels this is the published network. Noise and weights come from a generator of their own:
    another thread may be using torch's.
    """

    def __init__(self, channels: int, size: tuple[int, int], maps: int, random: torch.Generator) -> None:
        super().__init__()
        self.size, self.noise = size, nn.Buffer(torch.randn(maps, NOISE_DIM, 1, 1, generator=random))
        doublings = max(1, math.ceil(math.log2(max(size) / 4)))
        widths = [max(64, 1024 >> index) for index in range(doublings)]
        layers: list[nn.Module] = [TransposedConv(NOISE_DIM, widths[0], 1, 0, random)]
        for before, after in zip(widths, [*widths[1:], channels], strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), TransposedConv(before, after, 2, 1, random)]
        self.maps = nn.Sequential(*layers, nn.Tanh())
        self.mix = nn.utils.skip_init(nn.Conv2d, maps, 1, 3, 1, 1)
        nn.init.kaiming_uniform_(self.mix.weight, a=math.sqrt(5), generator=random)
        reach = 1 / math.sqrt(9 * maps)
        nn.init.uniform_(self.mix.bias, -reach, reach, generator=random)

    def forward(self) -> Tensor:
        """Return one map (C, H, W)."""
        maps = self.maps(self.noise).transpose(0, 1)  # channels become the batch: one mix serves all three
        top, left = (maps.shape[2] - self.size[0]) // 2, (maps.shape[3] - self.size[1]) // 2
        mixed: Tensor = self.mix(maps)[:, 0]
        return mixed[:, top : top + self.size[0], left : left + self.size[1]]


@dataclass(frozen=True)
class GeneratorAttack(EncoderAttack):
    """Trains the generator on ``-adversarial_weight InfoNCE(g(x), g(x')) + MSE(x', x) - MSE(HF(x'), HF(x))``.

    x' is the attacked image. The high-pass radius is 8 bins at 64 pixels and scales with the image. An eighth of the
    surrogate images only judges: kept is the map that brings most of them nearest to the clean features of another one,
    and training ends when that no longer rises.
    """

    only_outputs = True

    epochs: Count = 20
    """At most."""
    steps: Count | None = None
    """At most so many batches instead of epochs, whatever the number of images."""
    restarts: Count = 1
    """How many generators are trained from new weights and noise; the best is kept."""
    batch_size: Count = 256
    learning_rate: LearningRate = 2e-4
    noise_maps: Count = 16
    adversarial_weight: float = 5.0
    temperature: float = 0.1

    def train(
        self,
        encoder: nn.Module,
        surrogate: Tensor,
        generator: torch.Generator,
        attacked: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Return the map (C, H, W), unbounded, that the trained generator makes.

        Args:
            encoder: Pixels to features.
            surrogate: Images (N, C, H, W).
            generator: Source of all randomness.
            attacked: Puts the generator's map (C, H, W) on images (B, C, H, W), within the attack's bounds.
        """
        target = FeatureTarget(encoder, surrogate, generator)
        trained = [self._trained(encoder, target, generator, attacked) for _ in range(self.restarts)]
        return max(trained, key=lambda pair: pair[0])[1]

    def _trained(
        self,
        encoder: nn.Module,
        target: FeatureTarget,
        generator: torch.Generator,
        attacked: Callable[[Tensor, Tensor], Tensor],
    ) -> tuple[Success, Tensor]:
        """Train one generator; return the best map that a look at the held-out images has seen, and its success."""
        surrogate = target.images
        channels, height, width = surrogate.shape[1:]
        random = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        network = Generator(channels, (height, width), self.noise_maps, random).to(surrogate.device)
        optimizer = torch.optim.Adam(network.parameters(), self.learning_rate, betas=(0.5, 0.999), fused=True)
        radius = 8 * min(height, width) / 64
        order = endless_batches(len(target.crafting), self.batch_size, generator)
        precision = resolve(self.precision, surrogate.device)
        steps = self.steps or self.epochs * max(1, len(target.crafting) // self.batch_size)
        curve: list[Success] = []
        best = surrogate[0]
        for step in range(1, steps + 1):
            indices = target.crafting[next(order).to(surrogate.device)]
            images = surrogate[indices]
            with forward_in(precision, network):
                adversarial = attacked(images, network())
            features = in_parts(encoder, adversarial)
            loss = (
                -self.adversarial_weight * info_nce(target.clean[indices], features, self.temperature)
                + F.mse_loss(adversarial, images)
                - F.mse_loss(high_frequencies(adversarial, radius), high_frequencies(images, radius))
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % math.ceil(steps / LOOKS) and step != steps:
                continue
            with torch.no_grad():
                values: Tensor = network()
            success = target.success(lambda images, values=values: attacked(images, values))  # type: ignore[misc]
            if not curve or success > max(curve):
                best = values
            curve.append(success)
            if len(curve) >= FIRST_LOOKS and settled(curve):
                break
        return max(curve), best
