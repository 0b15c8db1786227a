"""Does the fast sensitivity select the same layers as the exact one, and what do both cost beside the release's?

    python benchmarks/sensitivity.py --seeds 0 1 2                      # several small encoders
    python benchmarks/sensitivity.py --encoders resnet18-64 --release   # minutes

Every encoder is trained adversarially for ``--steps`` steps on scanned digits, then its layers are ranked on
adversarial images of the training set. The release's procedure is written here from its description: for one layer
after the other, ten epochs of SGD with step 1 up the loss, projected and measured once an epoch, in fp32.
"""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import TYPE_CHECKING

import torch
from timing import Record, begin, finish, in_precision, interleaved, median, parser_of, spread, table
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_sdk.data import load_data
from genaf_sdk.encoders import build_backbone, load_encoder
from genaf_sdk.methods.adaptability import Adaptability
from genaf_sdk.methods.sensitivity import Sensitivity, layer_weights, redundant_layers, robust_sensitivity
from genaf_sdk.methods.steps import SignSteps, ascend
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from genaf_sdk.data import LabeledImages

ENCODERS = {
    "bundled-32": "bundled:simclr-cifar10",
    "resnet10t-32": "timm/resnet10t",
    "resnet10t-64": "timm/resnet10t",
    "resnet18-32": "torchvision:resnet18",
    "resnet18-64": "torchvision:resnet18",
}
FRACTION = Adaptability().redundant_fraction
FEW_STEPS = SignSteps(epsilon=8 / 255, step_size=8 / 255, steps=2)


def main() -> None:
    parser = parser_of(__doc__, repeats=1)
    parser.add_argument("--encoders", nargs="+", choices=list(ENCODERS), default=list(ENCODERS)[:4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--samples", type=int, default=Sensitivity().samples, help="adversarial images")
    parser.add_argument("--steps", type=int, default=60, help="of adversarial training before")
    parser.add_argument("--release", action="store_true", help="also the release's procedure: minutes")
    arguments = parser.parse_args()
    device = begin(arguments)
    records: list[Record] = []
    for name, seed in itertools.product(arguments.encoders, arguments.seeds):
        found = compare(name, seed, arguments, device)
        records += found
        rows = table([{head: value for head, value in record.items() if head != "rises"} for record in found])
        print(rows if len(records) == len(found) else rows.split("\n", 2)[2], flush=True)
    for method in dict.fromkeys(record["method"] for record in records):
        rows = [record for record in records if record["method"] == method]
        print(f"{method}: the layers of exact fp32 in {sum(row['same'] for row in rows)} of {len(rows)} cases")
    finish(arguments, records)


def compare(name: str, seed: int, arguments: argparse.Namespace, device: torch.device) -> list[Record]:
    """Rank the layers of one trained encoder by every method."""
    model, adversarial, labels = prepared(name, seed, arguments.steps, arguments.samples, device)
    rises: dict[str, dict[str, float]] = {}

    def run(name: str, method: Callable[[], dict[str, float]], precision: str) -> None:
        with in_precision(precision, device):
            rises[name] = method()

    methods: dict[str, Callable[[], object]] = {}
    for label in ("exact fp32", "fast fp32", "fast bf16"):
        method, precision = label.split()
        methods[label] = partial(run, label, partial(ours, model, adversarial, labels, method), precision)
    if arguments.release:
        methods["release"] = partial(run, "release", partial(as_released, model, adversarial, labels), "fp32")
    seconds = interleaved(methods, arguments.repeats, device, clock=arguments.clock, warm_up=False)
    exact, slowest = rises["exact fp32"], "release" if arguments.release else "exact fp32"
    chosen = set(redundant_layers(exact, FRACTION))
    return [
        {
            "encoder": name,
            "seed": seed,
            "method": method,
            "same": set(redundant_layers(rises[method], FRACTION)) == chosen,
            "selected": f"{len(chosen)} of {len(exact)}",
            "sum of exact rises": round(sum(exact[layer] for layer in redundant_layers(rises[method], FRACTION)), 4),
            "seconds": spread(seconds[method]),
            f"{slowest} / this": round(median(seconds[slowest]) / median(seconds[method]), 1),
            "rises": rises[method],
        }
        for method in methods
    ]


def prepared(name: str, seed: int, steps: int, samples: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """Train an encoder with its head adversarially; return it with adversarial training images and their labels."""
    size = int(name.rpartition("-")[2])
    known = ENCODERS[name]
    torch.manual_seed(seed)
    encoder = load_encoder(known) if known.startswith("bundled") else PixelEncoder(build_backbone(known))
    images = load_data("digits", image_size=(size, size), channels=3, seed=seed).train
    model = nn.Sequential(encoder, build_head("mlp", encoder.feature_dim((size, size)), 10)).to(device)
    model = model.to(memory_format=torch.channels_last)
    train(model, images, steps, seed, device)
    pixels, labels = (tensor.to(device) for tensor in images.sample(samples, seed=seed))
    adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), Adaptability().attack)
    return model.eval(), adversarial, labels


def train(model: nn.Module, images: LabeledImages, steps: int, seed: int, device: torch.device) -> None:
    """Adam on clean and adversarial cross-entropy, two sign steps, batches of 64."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for step in range(steps):
        pixels, labels = (tensor.to(device) for tensor in images.sample(64, seed=seed * 100_003 + step))
        with in_precision("bf16", device):
            adversarial, _ = ascend(model, pixels, labels, torch.zeros_like(pixels), FEW_STEPS)
            logits = model.train()(torch.cat([adversarial, pixels]))
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), labels.repeat(2)).backward()
        optimizer.step()


def ours(model: nn.Module, adversarial: Tensor, labels: Tensor, method: str) -> dict[str, float]:
    config = Sensitivity(method=method)  # type: ignore[arg-type]  # checked when made
    return robust_sensitivity(model, adversarial, labels, config, redundant_fraction=FRACTION)


def as_released(model: nn.Module, adversarial: Tensor, labels: Tensor, epochs: int = 10) -> dict[str, float]:
    """Return the rise of the loss that the release's ascent reaches, layer by layer."""
    with torch.no_grad():
        baseline = float(F.cross_entropy(model(adversarial), labels))
    rises = {}
    for name in layer_weights(model):
        moved = copy.deepcopy(model).requires_grad_(False)
        weight = moved.get_parameter(name).requires_grad_()
        start, losses = weight.detach().clone(), []
        radius = Sensitivity().radius * start.norm()
        optimizer = torch.optim.SGD([weight], lr=1.0)
        for _ in range(epochs):
            optimizer.zero_grad()
            (-F.cross_entropy(moved(adversarial), labels)).backward()
            optimizer.step()
            with torch.no_grad():
                change = weight - start
                weight.copy_(start + change * (radius / change.norm()).clamp(max=1))
                losses.append(float(F.cross_entropy(moved(adversarial), labels)))
        rises[name] = max(losses) - baseline
    return rises


if __name__ == "__main__":
    main()
