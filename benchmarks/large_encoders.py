"""How much memory does hardening a large encoder take at 224 px, and which way of training it saves how much?

    python benchmarks/large_encoders.py --rows large.jsonl           # goes on where it was
    python benchmarks/large_encoders.py --estimate --encoders resnet50 vit_large_patch16_224
    python benchmarks/large_encoders.py --encoders vit_large_patch16_224 --ways "LoRA 8 + full"

Architectures of timm with random weights: memory and time do not depend on their values. Each row is a process of its
own, which takes two steps of stage 1 of ``default`` on so many images (a micro-batch). It tells its peak resident
memory, Python and torch included, and the processor seconds of the second step. A line through two numbers of images
gives what the encoder takes by itself and what each image adds; lines through encoders give bytes a parameter. From
these follows the largest encoder for a memory. It is a straight line, to be confirmed by a row of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from timing import Record, table

from genaf_sdk.cells import Cells
from genaf_sdk.data import DataSplits, LabeledImages
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.activations import bytes_kept, recomputed, recomputed_activations
from genaf_sdk.engine.cost import peak_memory
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.lowrank import low_rank
from genaf_sdk.engine.machine import MachineConfig
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import gradients_of
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.methods import GenAF
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.tuning import TuningConfig, freeze
from genaf_sdk.precision import has_bf16
from genaf_sdk.preparation import frozen_parameters, new_classifier

ENCODERS = ("vit_small_patch14_dinov2", "vit_base_patch16_224", "resnet50")
SIZE = (224, 224)


@dataclass(frozen=True)
class Way:
    """A way of training."""

    tuning: dict[str, Any]
    checkpoint: str = "none"


WAYS = {
    "all weights": Way({}),
    "light": Way({}, "light"),
    "full": Way({}, "full"),
    "LoRA 8": Way({"lora_rank": 8}),
    "last": Way({"train_last": 1}),
    "LoRA 8 + full": Way({"lora_rank": 8}, "full"),
}
"""``last`` trains a quarter of the blocks: one stage of a ResNet, three blocks of a ViT."""


def measured(encoder: str, way: str, images: int, threads: int) -> Record:
    """Take two steps; in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tuning = dict(WAYS[way].tuning)
    if "train_last" in tuning and encoder.startswith("vit"):
        tuning["train_last"] = 3
    published = load_encoder(f"timm/{encoder}:random", image_size=SIZE)
    freeze(published, TuningConfig(**tuning))
    splits = [LabeledImages.in_memory(torch.rand(count, 3, *SIZE), torch.arange(count) % 2) for count in (images, 2, 2)]
    data = DataSplits(*splits, class_names=("one", "two"), name="noise")
    machine = MachineConfig(checkpoint_activations=WAYS[way].checkpoint)  # type: ignore[arg-type]
    precision = "bf16" if has_bf16(torch.device("cpu")) else "no"
    run = Run(Accelerator(cpu=True, mixed_precision=precision), show_progress=False, machine=machine)
    model = new_classifier(data.space.placed(published), data, 0)
    lab = Lab(run, model, data, frozen_parameters(published))
    method = GenAF().with_(schedule={"batch_size": images, "encoder_learning_rate": 1e-5, "epochs": 2})
    seconds = []
    with (
        low_rank(model, lab.stage("stage 1", method), tuning.get("lora_rank"), 0) as stage,
        gradients_of(model, stage),
        recomputed_activations(model, recomputed(run)),
        synchronized_layers(model, run.processes, sync_batch_norm=True) as current,
    ):
        fitting = Fitting(run, FeaturesAndLogits(model), model, data, stage)
        for _ in range(2):
            for batch in islice(fitting.batches(), 1):
                started = time.process_time()
                fitting.training_step(batch, current)
                seconds.append(time.process_time() - started)
    parameters = sum(parameter.numel() for parameter in published.parameters())
    return {
        "encoder": encoder,
        "way": way,
        "images": images,
        "parameters": parameters,
        "precision": precision,
        "GiB": round((peak_memory() or 0) / 2**30, 3),
        "seconds": round(seconds[-1], 2),
    }


def estimated(encoder: str) -> Record:
    """Return what ``genaf check`` would count, from one pass of two images: weights and moments, and MiB an image."""
    published = load_encoder(f"timm/{encoder}:random", image_size=SIZE)
    parameters = sum(parameter.numel() for parameter in published.parameters())
    published.train()
    found: Record = {"encoder": encoder, "M parameters": round(parameters / 1e6, 1)}
    found |= {"GiB, all weights": round(16 * parameters / 2**30, 2), "GiB, LoRA": round(4 * parameters / 2**30, 2)}
    with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(torch.device("cpu"))):
        for kind in ("none", "light", "full"):
            an_image = bytes_kept(published, torch.rand(2, 3, *SIZE), kind)  # of two views each
            found[f"MiB an image, {kind}"] = round(an_image / 2**20)
    return found


def lines(rows: list[Record]) -> list[Record]:
    """Return what every encoder takes by itself, and what an image adds, in each way."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["encoder"], row["way"]].append(row)
    found = []
    for (encoder, way), points in groups.items():
        low, high = (extreme(points, key=lambda row: row["images"]) for extreme in (min, max))
        slope = (high["GiB"] - low["GiB"]) / max(1, high["images"] - low["images"])
        found.append(
            {
                "encoder": encoder,
                "M parameters": round(low["parameters"] / 1e6, 1),
                "way": way,
                "GiB without images": round(low["GiB"] - slope * low["images"], 2) if high is not low else "",
                "MiB an image": round(1024 * slope) if high is not low else "",
                "seconds an image": round(high["seconds"] / high["images"], 2),
                "measured": ", ".join(f"{row['images']}: {row['GiB']:.2f} GiB" for row in points),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=list(ENCODERS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--images", nargs="+", type=int, default=[2, 6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, default=Path("large_encoders.jsonl"))
    parser.add_argument("--estimate", action="store_true", help="only count, as `genaf check` does; trains nothing")
    arguments = parser.parse_args()
    if arguments.estimate:
        torch.set_num_threads(arguments.threads)
        print(table([estimated(encoder) for encoder in arguments.encoders]))
        return
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()] if arguments.rows.exists() else []
    known = {(row["encoder"], row["way"], row["images"]) for row in rows}
    wanted = [(e, w, n) for e in arguments.encoders for w in arguments.ways for n in arguments.images]
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool,
        Cells[partial[Record]](pool) as cells,
    ):
        for cell in wanted:
            if cell not in known:
                cells.submit(partial(measured, *cell, arguments.threads))
        for done, result in cells:
            if isinstance(result, Exception):
                print(f"{done.args}: {type(result).__name__}: {result}", flush=True)
                continue
            rows.append(result)
            with arguments.rows.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(" ".join(map(str, result.values())), flush=True)
    print(table(lines(rows)))


if __name__ == "__main__":
    main()
