"""Pre-trains the bundled encoder: SimCLR (Chen et al., ICML 2020) on CIFAR-10 images, no label used.

    GENAF_DATA=... python benchmarks/pretrain_bundled.py --output simclr-cifar10.safetensors

Prints the loss of every epoch and, at the end, the k-NN accuracy (k = 20, cosine, weighted by exp(similarity / 0.1)) on
the CIFAR-10 test images, measured on the weights as stored (half precision).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from mosaics import read_mosaic
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.encoders.small_resnet import SmallResNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def normalize(pixels: Tensor) -> Tensor:
    return (pixels - pixels.new_tensor(MEAN)[:, None, None]) / pixels.new_tensor(STD)[:, None, None]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """SimCLR's augmentations for 32 x 32 pixels on a whole batch: resized crop, flip, color jitter, grayscale."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    scale = uniform(0.2, 1.0).sqrt()
    aspect = uniform(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    width, height = (scale * aspect).clamp(max=1), (scale / aspect).clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = width * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = uniform(-1, 1) * (1 - width)
    theta[:, 1, 2] = uniform(-1, 1) * (1 - height)
    views = F.grid_sample(images, F.affine_grid(theta, list(images.shape), False), "bilinear", "reflection", False)

    jittered = views * uniform(0.6, 1.4, 1, 1, 1)
    gray = jittered.mean(1, keepdim=True)
    jittered = gray.mean((2, 3), keepdim=True).lerp(jittered, uniform(0.6, 1.4, 1, 1, 1))
    jittered = jittered.mean(1, keepdim=True).lerp(jittered, uniform(0.6, 1.4, 1, 1, 1))
    # Hue: a rotation of the color cube around its gray diagonal by up to 0.1 turn.
    angle = uniform(-0.1, 0.1) * 2 * math.pi
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = cos * torch.eye(3) + sin * cross + (1 - cos) / 3
    jittered = torch.einsum("nij,njhw->nihw", rotation, jittered)
    views = torch.where(uniform(0, 1, 1, 1, 1) < 0.8, jittered, views)
    views = torch.where(uniform(0, 1, 1, 1, 1) < 0.2, views.mean(1, keepdim=True), views)
    return views.clamp(0, 1)


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """NT-Xent (SimCLR, equation 1); rows i and i + n are two views of one image."""
    z = F.normalize(projections, dim=1)
    similarity = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    positives = torch.arange(len(z)).roll(len(z) // 2)
    return F.cross_entropy(similarity, positives)


@torch.no_grad()
def knn_accuracy(encoder: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], k: int = 20) -> float:
    encoder.eval()

    def features(images: Tensor) -> Tensor:
        batches = (encoder(normalize(batch.float() / 255)) for batch in images.split(1000))
        return F.normalize(torch.cat(list(batches)), dim=1)

    bank, correct = features(train[0]), 0
    for query, labels in zip(features(test[0]).split(1000), test[1].split(1000), strict=True):
        similarity, neighbors = (query @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(query), 10).scatter_add_(1, train[1][neighbors], (similarity / 0.1).exp())
        correct += int((votes.argmax(1) == labels).sum())
    return correct / len(test[1])


def store(
    encoder: nn.Module, args: argparse.Namespace, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> float:
    """Write the weights in half precision and return the k-NN accuracy of what was written."""
    stored = {
        name: value.half() if value.is_floating_point() else value for name, value in encoder.state_dict().items()
    }
    reloaded = SmallResNet()
    reloaded.load_state_dict(stored)
    settings = {key: str(value) for key, value in vars(args).items() if key != "output"}
    partial = args.output.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in stored.items()}, partial, metadata=settings)
    partial.replace(args.output)
    return knn_accuracy(reloaded, train, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=80, help="what the learning-rate schedule is laid out for")
    parser.add_argument("--stop-after", type=int, default=40, help="epochs that are run of it")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    train, test = read_mosaic("cifar10", "train"), read_mosaic("cifar10", "test")
    encoder = SmallResNet().to(memory_format=torch.channels_last)
    width = encoder.feature_dim
    compiled = torch.compile(encoder)
    projector = nn.Sequential(
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 128)
    )
    parameters = [*encoder.parameters(), *projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=1e-4)
    steps = len(train[0]) // args.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.learning_rate, total_steps=steps * args.epochs, pct_start=0.1
    )
    last = min(args.stop_after, args.epochs)
    for epoch in range(last):
        started, total = time.monotonic(), 0.0
        encoder.train()
        for indices in torch.randperm(len(train[0]), generator=generator).split(args.batch_size)[:steps]:
            images = train[0][indices].float() / 255
            views = torch.cat([augment(images, generator), augment(images, generator)])
            with torch.autocast("cpu", torch.bfloat16):
                features = compiled(normalize(views).contiguous(memory_format=torch.channels_last))
            loss = nt_xent(projector(features.float()), args.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        line = f"epoch {epoch + 1}/{args.epochs} loss {total / steps:.4f} {time.monotonic() - started:.1f} s"
        if (epoch + 1) % 10 == 0 or epoch + 1 == last:
            line += f" k-NN {store(encoder, args, train, test):.4f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
