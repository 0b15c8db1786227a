"""What does one step of stage 1 cost, beside the released arithmetic and beside plain fine-tuning?

    python benchmarks/stage1.py                     # ResNet-18 at 64 x 64, batch 256
    python benchmarks/stage1.py --batch-size 64 --memory
    python benchmarks/stage1.py --encoder torchvision:resnet50 --image-size 224 --device cuda

All variants descend the same loss (adversarial and clean cross-entropy, genetic term) of PGD images. "As released" is
written here from the released code's description: float32, NCHW, every attack step a full backward pass whose parameter
gradients are thrown away or leak, clean and adversarial images in passes of their own. Each further row adds one
change; "ours" is what the package does, micro-batches are its ``machine.micro_batch_size``. The share of the ceiling
compares with large square matrix products in the same precision.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from timing import (
    Record,
    begin,
    ceiling,
    finish,
    forward_flops,
    in_precision,
    interleaved,
    median,
    parser_of,
    peak_memory,
    spread,
    table,
)
from torch import Tensor
from torch.nn import functional as F

from genaf_sdk.config import HardenConfig
from genaf_sdk.encoders import build_backbone
from genaf_sdk.engine.activations import Recomputed, recomputed_activations
from genaf_sdk.engine.backward import backward
from genaf_sdk.engine.batches import Batch
from genaf_sdk.engine.modules import CurrentBatch
from genaf_sdk.engine.stage import Outputs, Stage
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods.steps import SignSteps, ascend
from genaf_sdk.models.encoder import PixelEncoder
from genaf_sdk.models.heads import build_head

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGET, STEP = 8 / 255, 2 / 255
PAPER = HardenConfig.preset("paper").method


@dataclass(frozen=True)
class Variant:
    """One way to compute the step."""

    input_gradients_only: bool = True
    channels_last: bool = True
    joined: bool = True
    precision: str = "fp32"
    adversarial: bool = True
    micro_batches: int = 1
    recomputed: Recomputed = "none"


VARIANTS = {
    "as released": Variant(input_gradients_only=False, channels_last=False, joined=False),
    "+ gradients of the input only": Variant(channels_last=False, joined=False),
    "+ channels-last": Variant(joined=False),
    "+ one pass for both images (ours, fp32)": Variant(),
    "+ bf16 (ours)": Variant(precision="bf16"),
    "+ two micro-batches (fp32)": Variant(micro_batches=2),
    "+ two micro-batches (bf16)": Variant(precision="bf16", micro_batches=2),
    "+ light recomputation (fp32)": Variant(recomputed="light"),
    "+ light recomputation (bf16)": Variant(precision="bf16", recomputed="light"),
    "+ full recomputation (bf16)": Variant(precision="bf16", recomputed="full"),
    "plain fine-tuning, fp32": Variant(adversarial=False),
    "plain fine-tuning, bf16": Variant(adversarial=False, precision="bf16"),
}


@dataclass
class Bench:
    """A classifier, a batch and its optimizers, made for one variant."""

    variant: Variant
    arguments: argparse.Namespace
    optimizers: list[torch.optim.Optimizer] = field(default_factory=list)

    def __post_init__(self) -> None:
        arguments, device = self.arguments, torch.device(self.arguments.device)
        size = (arguments.image_size, arguments.image_size)
        torch.manual_seed(arguments.seed)
        encoder = PixelEncoder(build_backbone(arguments.encoder), mean=(0.5,) * 3, std=(0.25,) * 3)
        head, names = (
            build_head("mlp", encoder.feature_dim(size), arguments.classes),
            tuple(map(str, range(arguments.classes))),
        )
        layout = torch.channels_last if self.variant.channels_last else torch.contiguous_format
        self.model = HardenedModel(encoder, head, class_names=names, image_size=size).to(device, memory_format=layout)
        pixels = torch.rand(arguments.batch_size, 3, *size)
        self.pixels = pixels.to(device).contiguous(memory_format=layout)
        self.labels = (torch.arange(arguments.batch_size) % arguments.classes).to(device)
        self.network = FeaturesAndLogits(self.model)
        self.optimizers = [
            torch.optim.Adam(part.parameters(), rate, weight_decay=8e-4)
            for part, rate in ((self.model.encoder, 1e-4), (self.model.head, 5e-3))
        ]

    @property
    def passes(self) -> int:
        """How often the batch crosses the network: forwards 1, backwards 1 for the input and 1 for the weights."""
        if not self.variant.adversarial:
            return 3
        again = 2 if self.variant.micro_batches > 1 else 0
        return self.arguments.attack_steps * (2 if self.variant.input_gradients_only else 3) + 6 + again

    def step(self) -> None:
        """Attack, descend."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with (
            in_precision(self.variant.precision, self.pixels.device),
            recomputed_activations(self.model, self.variant.recomputed),
        ):
            if self.variant.micro_batches > 1:
                self.backward_in_pieces()
            else:
                self.loss().backward()
        for optimizer in self.optimizers:
            optimizer.step()

    def loss(self) -> Tensor:
        """Return the loss of the batch."""
        self.model.train()
        if not self.variant.adversarial:
            return F.cross_entropy(self.model(self.pixels).float(), self.labels)
        adversarial = self.attacked(self.pixels, self.labels)
        if self.variant.joined:
            features, logits = (part.float() for part in self.network(torch.cat([adversarial, self.pixels])))
            pairs = features.chunk(2), logits.chunk(2)
        else:
            first, second = self.network(adversarial), self.network(self.pixels)
            pairs = (first[0].float(), second[0].float()), (first[1].float(), second[1].float())
        batch = Batch.whole(self.pixels, self.labels)
        return batch.mean(PAPER.losses(Outputs(*pairs), batch).rows)

    def backward_in_pieces(self) -> None:
        """Do as ``loss().backward()`` does, in micro-batches."""
        self.model.train()
        micro_batches = Batch.whole(self.pixels, self.labels).split(self.variant.micro_batches)
        views = [(self.attacked(piece.inputs, piece.labels), piece.inputs) for piece in micro_batches]
        stage = Stage(
            name="stage 1",
            schedule=PAPER.schedule,
            views=PAPER.views,  # made above, by this variant's attack
            losses=PAPER.losses,
            compares_rows=PAPER.compares_rows,
        )
        accelerator = Accelerator(cpu=torch.device(self.arguments.device).type == "cpu")
        backward(stage, self.network, accelerator, micro_batches, views, CurrentBatch(), rewind=lambda: None)

    def attacked(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the images after PGD."""
        steps, start = self.arguments.attack_steps, torch.empty_like(pixels).uniform_(-BUDGET, BUDGET)
        if self.variant.input_gradients_only:
            way = SignSteps(epsilon=BUDGET, step_size=STEP, steps=steps)
            return ascend(self.model, pixels, labels, start, way)[0]
        adversarial = (pixels + start).clamp(0, 1)
        self.model.eval()
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            F.cross_entropy(self.model(adversarial), labels, reduction="sum").backward()
            moved = adversarial + STEP * adversarial.grad.sign()  # type: ignore[union-attr]
            adversarial = (pixels + (moved - pixels).clamp(-BUDGET, BUDGET)).clamp(0, 1)
        self.model.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return adversarial.detach()


def two_steps(variant: Variant, arguments: argparse.Namespace, remember: Callable[[], None]) -> None:
    """Take two steps in a fresh process, after ``remember``; one attack step needs as much memory as ten."""
    bench = Bench(variant, argparse.Namespace(**{**vars(arguments), "attack_steps": 1}))
    remember()
    for _ in range(2):
        bench.step()


def main() -> None:
    parser = options(parser_of(__doc__, repeats=5))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="the rows")
    parser.add_argument("--cold", action="store_true", help="without a first round that does not count")
    parser.add_argument("--memory", action="store_true", help="also peak memory, beyond model and batch")
    parser.add_argument("--profile", action="store_true", help="also where the time of our step goes")
    arguments = parser.parse_args()
    device = begin(arguments)
    variants = {name: VARIANTS[name] for name in arguments.variants}
    records = measure(arguments, variants, device)
    print(table(records), flush=True)
    if arguments.memory:
        peaks = [
            {"variant": name, "peak MiB": round(peak_memory(two_steps, variant, arguments, device=device))}
            for name, variant in variants.items()
        ]
        print("\n" + table(peaks), flush=True)
        records += peaks
    if arguments.profile:
        profile(Bench(VARIANTS["+ bf16 (ours)"], arguments))
    finish(arguments, records)


def options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add what says of what a step is."""
    parser.add_argument("--encoder", default="torchvision:resnet18", help="architecture; its weights are random")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--attack-steps", type=int, default=10)
    return parser


def measure(arguments: argparse.Namespace, variants: dict[str, Variant], device: torch.device) -> list[Record]:
    """Time a step of every variant, in turn; the first is the reference."""
    benches = {name: Bench(variant, arguments) for name, variant in variants.items()}
    steps: dict[str, Callable[[], object]] = {name: bench.step for name, bench in benches.items()}
    seconds = interleaved(steps, arguments.repeats, device, clock=arguments.clock, warm_up=not arguments.cold)
    peaks = {
        "fp32": ceiling(torch.float32, device, arguments.clock),
        "bf16": ceiling(torch.bfloat16, device, arguments.clock),
    }
    reference = median(seconds[next(iter(variants))])
    records: list[dict[str, Any]] = []
    for name, bench in benches.items():
        rate = bench.passes * forward_flops(bench.model, bench.pixels) / median(seconds[name])
        records.append(
            {
                "variant": name,
                "seconds": spread(seconds[name]),
                "passes": bench.passes,
                "ratio": round(reference / median(seconds[name]), 2),
                "GFLOP/s": round(rate / 1e9),
                "of the ceiling": f"{rate / peaks[bench.variant.precision]:.0%}",
            }
        )
    return records


def profile(bench: Bench) -> None:
    """Print the operations that take most of a step."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.pixels.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    bench.step()
    with torch.profiler.profile(activities=activities) as recorded:
        bench.step()
    print(recorded.key_averages().table(sort_by=f"self_{bench.pixels.device.type}_time_total", row_limit=14))


if __name__ == "__main__":
    main()
