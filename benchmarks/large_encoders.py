"""How much memory does hardening an encoder take, and which way of training it saves how much?

    python benchmarks/large_encoders.py --rows large.jsonl           # at 224 px; goes on where it was
    python benchmarks/large_encoders.py --encoders resnet18 --size 64 --images 128 --ways plain "all weights" half
    python benchmarks/large_encoders.py --estimate --encoders resnet50 vit_large_patch16_224
    python benchmarks/large_encoders.py --encoders vit_large_patch16_224 --ways "LoRA 8 + full"

Architectures of timm with random weights: memory and time do not depend on their values. Each row is a process of its
own, which takes two steps of stage 1 of ``default`` on so many images (a micro-batch), or of plain fine-tuning. It
tells its peak resident memory, Python and torch included, how much of it came with the steps, and the processor seconds
of the second step. A third one counts the tensors that are alive at its peak: what an allocator without loss needs, on
a GPU, too. A line through two numbers of images
gives what the encoder takes by itself and what each image adds; lines through encoders give bytes a parameter. From
these follows the largest encoder for a memory. It is a straight line, to be confirmed by a row of its own.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from rows import Rows
from timing import Record, new_peak, peak_live, peak_resident, table

from genaf_sdk.cells import Cells
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.activations import bytes_kept, recomputed, recomputed_activations
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import gradients_of
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.memory import reused_memory
from genaf_sdk.methods import FineTuning, GenAF
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.tuning import TuningConfig, freeze
from genaf_sdk.precision import has_bf16
from genaf_sdk.preparation import frozen_parameters, new_classifier

if TYPE_CHECKING:
    from genaf_sdk.models.encoder import PixelEncoder

PRELOADED = ["accelerate", "timm", "genaf_sdk.engine.train", "genaf_sdk.methods", "genaf_sdk.preparation"]
"""What no row's process has to import again."""
ENCODERS = ("vit_small_patch14_dinov2", "vit_base_patch16_224", "resnet50")


@dataclass(frozen=True)
class Way:
    """A way of training; ``parts`` is how many micro-batches a batch is cut into."""

    tuning: dict[str, Any]
    checkpoint: str = "none"
    parts: int = 1
    plain: bool = False


WAYS = {
    "plain": Way({}, plain=True),
    "all weights": Way({}),
    "half": Way({}, parts=2),
    "light": Way({}, "light"),
    "full": Way({}, "full"),
    "LoRA 8": Way({"lora_rank": 8}),
    "last": Way({"train_last": 1}),
    "LoRA 8 + full": Way({"lora_rank": 8}, "full"),
}
"""``plain`` is fine-tuning without an adversary; ``half`` has two micro-batches; ``last`` trains a quarter of the
blocks: one stage of a ResNet, three blocks of a ViT."""


def architecture(encoder: str, size: int) -> PixelEncoder:
    """Return an encoder by its id, or of timm by its name, with random weights."""
    return load_encoder(encoder if ":" in encoder else f"timm/{encoder}:random", image_size=(size, size))


def measured(encoder: str, size: int, name: str, images: int, threads: int) -> Record:
    """Take two steps; in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    way = WAYS[name]
    tuning = dict(way.tuning)
    if "train_last" in tuning and encoder.startswith("vit"):
        tuning["train_last"] = 3
    published = architecture(encoder, size)
    freeze(published, TuningConfig(**tuning))
    splits = [
        LabeledImages.in_memory(torch.rand(count, 3, size, size), torch.arange(count) % 2) for count in (images, 2, 2)
    ]
    data = DataSplits(*splits, class_names=("one", "two"), name="noise")
    machine = MachineConfig(
        checkpoint_activations=way.checkpoint,  # type: ignore[arg-type]
        micro_batch_size=images // way.parts,
    )
    precision = "bf16" if has_bf16(torch.device("cpu")) else "no"
    run = Run(Accelerator(cpu=True, mixed_precision=precision), show_progress=False, machine=machine)
    model = new_classifier(data.space.placed(published), data, 0)
    lab = Lab(run, model, data, frozen_parameters(published))
    method = (FineTuning if way.plain else GenAF)().with_(
        schedule={"batch_size": images, "encoder_learning_rate": 1e-5, "epochs": 3}
    )
    seconds = []
    with (
        reused_memory(),
        low_rank(model, lab.stage("stage 1", method), tuning.get("lora_rank"), 0) as stage,
        gradients_of(model, stage),
        recomputed_activations(model, recomputed(run)),
        synchronized_layers(model, run.processes, sync_batch_norm=True) as current,
    ):
        fitting = Fitting(run, FeaturesAndLogits(model), model, data, stage)
        before = new_peak()
        batch = next(iter(fitting.batches()))
        for _ in range(2):
            started = time.process_time()
            fitting.training_step(batch, current)
            seconds.append(time.process_time() - started)
        peak = peak_resident()
        live = peak_live(lambda: fitting.training_step(batch, current))
    parameters = sum(parameter.numel() for parameter in published.parameters())
    return {
        "encoder": encoder,
        "size": size,
        "way": name,
        "images": images,
        "threads": threads,
        "parameters": parameters,
        "precision": precision,
        "GiB": round(peak / 1024, 3),
        "GiB of the steps": round((peak - before) / 1024, 3),
        "MiB alive": round(live),
        "seconds": round(seconds[-1], 2),
    }


def estimated(encoder: str, size: int) -> Record:
    """Return what ``genaf check`` would count, from one pass of two images: weights and moments, and MiB an image."""
    published = architecture(encoder, size)
    parameters = sum(parameter.numel() for parameter in published.parameters())
    published.train()
    found: Record = {"encoder": encoder, "M parameters": round(parameters / 1e6, 1)}
    found |= {"GiB, all weights": round(16 * parameters / 2**30, 2), "GiB, LoRA": round(4 * parameters / 2**30, 2)}
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
        for kind in ("none", "light", "full"):
            an_image = bytes_kept(published, torch.rand(2, 3, size, size), kind)  # of two views each
            found[f"MiB an image, {kind}"] = round(an_image / 2**20)
    return found


def lines(rows: list[Record]) -> list[Record]:
    """Return what every encoder takes by itself, and what an image adds, in each way."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["encoder"], row["size"], row["way"]].append(row)
    found = []
    for (encoder, size, way), points in groups.items():
        low, high = (extreme(points, key=lambda row: row["images"]) for extreme in (min, max))
        slope = (high["GiB"] - low["GiB"]) / max(1, high["images"] - low["images"])
        found.append(
            {
                "encoder": encoder,
                "px": size,
                "M parameters": round(low["parameters"] / 1e6, 1),
                "way": way,
                "GiB without images": round(low["GiB"] - slope * low["images"], 2) if high is not low else "",
                "MiB an image": round(1024 * slope) if high is not low else "",
                "seconds an image": round(high["seconds"] / high["images"], 2),
                "measured": ", ".join(
                    f"{row['images']}: {row['GiB']:.2f} GiB, {row['GiB of the steps']:.2f} of the steps, "
                    f"{row['MiB alive']} MiB alive"
                    for row in points
                ),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--images", nargs="+", type=int, default=[2, 6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path("large_encoders.jsonl"))
    parser.add_argument("--estimate", action="store_true", help="only count, as `genaf check` does; trains nothing")
    arguments = parser.parse_args()
    if arguments.estimate:
        torch.set_num_threads(arguments.threads)
        print(table([estimated(encoder, arguments.size) for encoder in arguments.encoders]))
        return
    rows = Rows(arguments.rows, ("encoder", "size", "way", "images", "threads"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with (
        ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool,
        Cells[partial[Record]](pool) as cells,
    ):
        for encoder, way, images in itertools.product(arguments.encoders, arguments.ways, arguments.images):
            key = {"encoder": encoder, "size": arguments.size, "way": way, "images": images}
            if not rows.has(**key, threads=arguments.threads):
                cells.submit(partial(measured, encoder, arguments.size, way, images, arguments.threads))
        for done, result in cells:
            if isinstance(result, Exception):
                print(f"{done.args}: {type(result).__name__}: {result}", flush=True)
                continue
            rows.add(result)
            print(" ".join(map(str, result.values())), flush=True)
    print(table(lines(rows.of(threads=arguments.threads))))


if __name__ == "__main__":
    main()
