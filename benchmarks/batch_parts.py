"""In how many parts does a batch of an attack go through the network fastest, on a processor?

    python benchmarks/batch_parts.py
    python benchmarks/batch_parts.py --encoders torchvision:resnet18 --sizes 64 --parts 32 64

A step is that of an attack: images forth, a scalar back to their pixels, batch norms folded, memory kept. Parts of all
sizes run in turn, in one process. Ratios of medians to the fastest; * marks what ``models/parts.py`` takes. Weights
are random, but for bundled encoders.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from timing import Record, begin, finish, interleaved, median, parser_of, table
from torch import Tensor

from genaf_sdk import load_encoder
from genaf_sdk.encoders import build_backbone
from genaf_sdk.inputs.images import image_space
from genaf_sdk.memory import reused_memory
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.models.parts import part_size

if TYPE_CHECKING:
    import argparse

    from torch import nn

ENCODERS = ("bundled:simclr-cifar10", "torchvision:resnet18", "timm/mobilenetv2_100")


def main() -> None:
    parser = parser_of(__doc__, repeats=5, processor=True)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--parts", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--batch-size", type=int, default=128)
    arguments = parser.parse_args()
    begin(arguments)
    records = []
    with reused_memory():
        for name in arguments.encoders:
            for size in arguments.sizes:
                records.append(row(name, size, arguments))
                print(records[-1], flush=True)
    print(table(records))
    finish(arguments, records)


def row(name: str, size: int, arguments: argparse.Namespace) -> Record:
    """Return milliseconds an image with the fastest parts, and how much longer the others take."""
    encoder = encoder_of(name).eval().requires_grad_(False)
    pixels = torch.rand(arguments.batch_size, 3, size, size)
    images = image_space(pixels).arranged(pixels)
    image_space(pixels).placed(encoder)
    with folded_batch_norms(encoder, images):
        candidates = {str(count): partial(step, encoder, images, count) for count in arguments.parts}
        device = torch.device(arguments.device)
        seconds = interleaved(candidates, arguments.repeats, device, clock=arguments.clock)
    medians = {count: median(values) for count, values in seconds.items()}
    fastest, taken = min(medians.values()), str(min(part_size(images), len(images)))
    ratios = {count: f"{value / fastest:.2f}{'*' * (count == taken)}" for count, value in medians.items()}
    return {"encoder": name, "px": size, "ms an image": f"{1e3 * fastest / arguments.batch_size:.2f}", **ratios}


def encoder_of(name: str) -> nn.Module:
    """Return a bundled encoder, or an architecture with random weights."""
    if name.startswith("bundled:"):
        return load_encoder(name)
    return PixelEncoder(build_backbone(name), mean=(0.5,) * 3, std=(0.25,) * 3)


def step(encoder: nn.Module, images: Tensor, count: int) -> None:
    """Send images forth in parts of ``count``, and a scalar back."""
    variable = images.detach().requires_grad_()
    torch.cat([encoder(part) for part in variable.split(count)]).square().sum().backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
