"""Which arithmetic is fastest for which encoder: memory layout, bf16, torch.compile, by a step of stage 1.

    python benchmarks/kernels.py --rows kernels.jsonl --threads 1 --clock cpu
    python benchmarks/kernels.py --rows kernels.jsonl --encoders torchvision:resnet18 --sizes 224 --kernels compiled

A row is one encoder at one size: its candidates run in turn, in one process, so that what else the machine does falls
on all alike. Ratios are of medians, against float32 in channels-last layout. Rows of the same kernels, batch size,
threads and clock that are there are kept. Weights are
random; the step is that of ``benchmarks/stage1.py`` ("ours"), with two steps of PGD.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rows import Rows
from stage1 import Bench, Variant
from timing import Record, begin, interleaved, machine, median, parser_of, table

if TYPE_CHECKING:
    from collections.abc import Callable

ENCODERS = (
    "timm/mobilenetv2_100",
    "timm/efficientnet_lite0",
    "torchvision:resnet18",
    "timm/vit_small_patch16_224:image_size=SIZE",
)
REFERENCE = "fp32, channels-last"
OPTIONS = ("batch_size", "device", "threads", "clock", "seed")
"""What a row depends on beside encoder, size and kernels."""


@dataclass(frozen=True)
class Kernel:
    """A way to compute."""

    variant: Variant
    compiled: bool = False


KERNELS = {
    REFERENCE: Kernel(Variant()),
    "fp32, contiguous": Kernel(Variant(channels_last=False)),
    "bf16, channels-last": Kernel(Variant(precision="bf16")),
    "bf16, contiguous": Kernel(Variant(precision="bf16", channels_last=False)),
    "compiled": Kernel(Variant(), compiled=True),
    "compiled, bf16": Kernel(Variant(precision="bf16"), compiled=True),
}


def row(encoder: str, size: int, names: list[str], arguments: argparse.Namespace) -> Record:
    """Return the seconds of every candidate, in turn; one that cannot run has its error instead."""
    device = torch.device(arguments.device)
    steps: dict[str, Callable[[], object]] = {}
    errors = {}
    named = encoder.replace("SIZE", f"{size}x{size}")
    options = {"encoder": named, "image_size": size, "classes": 10, "attack_steps": 2}
    for name in names:
        bench = Bench(KERNELS[name].variant, argparse.Namespace(**{**vars(arguments), **options}))
        if KERNELS[name].compiled:
            bench.model.encoder.backbone.compile()
        try:
            bench.step()  # compiles
        except Exception as error:  # whatever a compiler says
            errors[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200]
            continue
        steps[name] = bench.step
    seconds = interleaved(steps, arguments.repeats, device, clock=arguments.clock, warm_up=False)
    found = {name: [round(value, 4) for value in values] for name, values in seconds.items()}
    return {"seconds": found, "errors": errors, "machine": machine(arguments)}


def shown(found: Record) -> Record:
    """Return a row of the table: seconds of the reference, ratios of the others (below 1 is faster)."""
    medians = {name: median(values) for name, values in found["seconds"].items()}
    reference = medians[REFERENCE]
    ratios = {name: f"{medians[name] / reference:.2f}" if name in medians else "" for name in KERNELS}
    ratios[REFERENCE] = f"{reference:.2f} s"
    return {"encoder": found["encoder"].partition(":image_size")[0], "px": found["size"], **ratios}


def main() -> None:
    parser = parser_of(__doc__, repeats=3, records=False)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 224])
    parser.add_argument("--kernels", nargs="+", choices=list(KERNELS), default=list(KERNELS))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rows", type=Path, default=Path("kernels.jsonl"))
    arguments = parser.parse_args()
    begin(arguments)
    rows = Rows(arguments.rows, ("encoder", "size", "kernels", *OPTIONS))
    names = list(dict.fromkeys([REFERENCE, *arguments.kernels]))
    settings = {"kernels": names} | {name: getattr(arguments, name) for name in OPTIONS}
    for size in arguments.sizes:
        for encoder in arguments.encoders:
            key = {"encoder": encoder, "size": size, **settings}
            if rows.has(**key):
                continue
            found = row(encoder, size, names, arguments)
            rows.add({**key, **found})
            print(json.dumps(found["seconds"]), flush=True)
    print(table([shown(found) for found in rows.of(**settings)]))


if __name__ == "__main__":
    main()
