"""How does the cost of a stage-1 step grow with the batch, the image, the classes and the encoder?

    python benchmarks/growth.py --plot docs/growth.svg

Each sweep changes one thing and leaves the others at ResNet-18, 64 x 64 pixels, batch 256, 10 classes, ten attack
steps, or what the options say. The genetic term, which compares every two images of a batch, is also timed alone.
"Exponent" is the slope of log seconds over log size: 1 is linear.
"""

from __future__ import annotations

import argparse
import math
import statistics
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from stage1 import Bench, Variant, options
from timing import Record, begin, finish, forward_flops, interleaved, median, parser_of, spread, table

from genaf_sdk.engine.batches import Batch
from genaf_sdk.methods.genetic import genetic_regularization

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

SWEEPS: dict[str, tuple[str, tuple[int | str, ...]]] = {
    "images in the batch": ("batch_size", (16, 32, 64, 128)),
    "pixels a side": ("image_size", (32, 64, 128)),
    "classes": ("classes", (10, 100, 1000)),
    "GFLOP of the encoder, an image": ("encoder", tuple(f"torchvision:resnet{depth}" for depth in (18, 34, 50))),
}
GENETIC = "images in the batch, genetic term alone"
GENETIC_BATCHES = (64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Curve:
    """Seconds by size."""

    sizes: list[float]
    seconds: list[list[float]]

    @property
    def exponent(self) -> float:
        """Slope of the least-squares line, log over log."""
        seconds = [math.log(median(runs)) for runs in self.seconds]
        return statistics.linear_regression([math.log(size) for size in self.sizes], seconds).slope


def main() -> None:
    parser = options(parser_of(__doc__, repeats=3))
    parser.add_argument("--plot", type=Path, help="SVG file to draw")
    arguments = parser.parse_args()
    device = begin(arguments)
    variant = Variant(precision="bf16")
    curves = {}
    for label, (option, values) in SWEEPS.items():
        changed = [argparse.Namespace(**{**vars(arguments), option: value}) for value in values]
        curves[label] = sweep(label, variant, changed, [getattr(each, option) for each in changed], device)
    curves[GENETIC] = genetic_term(arguments, device)
    records: list[Record] = [
        {"size of": label, "size": round(size, 2), "seconds": spread(runs), "exponent": round(curve.exponent, 2)}
        for label, curve in curves.items()
        for size, runs in zip(curve.sizes, curve.seconds, strict=True)
    ]
    print(table(records))
    if arguments.plot:
        draw(curves, arguments.plot)
    finish(arguments, records)


def sweep(
    label: str, variant: Variant, arguments: list[argparse.Namespace], values: list[object], device: torch.device
) -> Curve:
    """Time a step at every value, in turn."""
    benches = [Bench(variant, each) for each in arguments]
    steps: dict[str, Callable[[], object]] = {str(number): bench.step for number, bench in enumerate(benches)}
    seconds = interleaved(steps, arguments[0].repeats, device, clock=arguments[0].clock)
    sizes = [
        forward_flops(bench.model, bench.pixels) / len(bench.pixels) / 1e9 if isinstance(value, str) else float(value)  # type: ignore[arg-type]
        for bench, value in zip(benches, values, strict=True)
    ]
    print(f"{label}: done", flush=True)
    return Curve(sizes, list(seconds.values()))


def genetic_term(arguments: argparse.Namespace, device: torch.device, width: int = 512) -> Curve:
    """Time the genetic term with its gradient, on features of ResNet-18's width."""
    ways: dict[str, Callable[[], object]] = {}
    for count in GENETIC_BATCHES:
        adversarial, clean = (torch.randn(count, width, device=device, requires_grad=True) for _ in range(2))
        labels, weight = torch.arange(count, device=device) % 10, torch.rand(count, device=device)
        ways[str(count)] = partial(_descend, adversarial, clean, Batch.whole(clean, labels), weight)
    seconds = interleaved(ways, arguments.repeats, device, clock=arguments.clock)
    return Curve([float(count) for count in GENETIC_BATCHES], list(seconds.values()))


def _descend(adversarial: Tensor, clean: Tensor, batch: Batch, weight: Tensor) -> None:
    batch.mean(genetic_regularization(adversarial, clean, batch, weight=weight)).backward()


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draw one panel a sweep, log over log, with the exponent in its title; the genetic term beside the whole step."""
    mpl.rcParams.update({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(1, len(SWEEPS), figsize=(3 * len(SWEEPS), 2.8), sharey=True, layout="constrained")
    for axis, label in zip(axes, SWEEPS, strict=True):
        curve = curves[label]
        axis.loglog(curve.sizes, [median(runs) for runs in curve.seconds], "o-", color="#1f5fa8", label="step")
        axis.set_title(f"exponent {curve.exponent:.2f}")
        axis.set_xlabel(label)
        axis.set_xticks(curve.sizes, labels=[f"{size:.2g}" if size < 1 else f"{size:.0f}" for size in curve.sizes])
        axis.minorticks_off()
    alone = curves[GENETIC]
    axes[0].loglog(alone.sizes, [median(runs) for runs in alone.seconds], "s--", color="#b5532a", label="genetic term")
    axes[0].set_xticks([16, 64, 256, 1024], labels=["16", "64", "256", "1024"])
    axes[0].minorticks_off()
    axes[0].legend(frameon=False)
    axes[0].set_ylabel("seconds a step")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
