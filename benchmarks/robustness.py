"""Which method is the most robust, and at what price? Methods x data x attacks x seeds, on the bundled encoder.

    python benchmarks/robustness.py digits
    GENAF_DATA=FOLDER python benchmarks/robustness.py gtsrb cifar10 --images 6000
    python benchmarks/robustness.py digits --what ablation
    GENAF_DATA=FOLDER python benchmarks/robustness.py gtsrb --images 3000 --what tuning --seeds 0
    GENAF_DATA=FOLDER python benchmarks/robustness.py gtsrb --what variants --seeds 0

Every row is kept in OUTPUT/WHAT-DATA/comparison.jsonl as soon as it is there: a run that was stopped goes on. Beside it
are the table and the plot. CIFAR-10 is what the bundled encoder was pre-trained on, without labels: in-domain.
``tuning`` scores candidates for every method, ``variants`` those for our own, on validation images; the test images
play no part in choosing the presets.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from mosaics import load_mosaic

from genaf_sdk import DataSplits, HardenConfig, compare, load_data
from genaf_sdk.cells import local_processes
from genaf_sdk.comparison import EVALUATION
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.rows import Comparison, ComparisonRow, read_rows

ENCODER = "bundled:simclr-cifar10"
QUICK = EvaluationConfig(
    attacks=("uapgd:steps=50", "label-uap:steps=50", "pgd:steps=10", "pgd:steps=10,budget=4/255"),
    curve=(),
    checks=False,
)
QUICK_WITH_PATCH = QUICK.with_(
    attacks=(QUICK.attacks[0], "advencoder-pat:batch_size=128,noise_maps=8", *QUICK.attacks[1:])
)
PRESETS = (
    *("default", "fast", "paper", "linear-probe", "fine-tuning"),
    *("pgd-at", "trades", "mart", "universal-at", "rift"),
)
"""In the order of the tables."""

STEP_SIZES = {steps: levels / 255 for steps, levels in ((1, 10), (2, 10), (4, 5), (10, 2))}
"""Of PGD at 8/255, by the number of steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", help="digits, gtsrb, cifar10, or any data id such as folder:PATH")
    parser.add_argument("--what", choices=list(CONFIGURATIONS), default="methods")
    parser.add_argument("--only", nargs="+", help="names of methods, ablations or candidates; by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", type=int, help="training images of gtsrb and cifar10; by default all")
    parser.add_argument("--output", type=Path, default=Path("docs/results"))
    parser.add_argument("--threads", type=int, default=1, help="of all workers together")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    everything = CONFIGURATIONS[arguments.what]()
    unknown = set(arguments.only or ()) - set(everything)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(everything)}")
    chosen = {name: config for name, config in everything.items() if name in (arguments.only or everything)}
    for name in arguments.data:
        label = name.replace("/", "-") + (f"-{arguments.images}" if arguments.images else "")
        folder = arguments.output / f"{arguments.what}-{label}"
        for seed in arguments.seeds:
            data = load(name, arguments.images, seed)
            if arguments.what in ("tuning", "variants"):
                data = dataclasses.replace(data, test=data.validation)
            evaluation = {"tuning": QUICK, "variants": QUICK_WITH_PATCH}.get(arguments.what, EVALUATION)
            with local_processes(arguments.workers) as executor:
                comparison = compare(
                    ENCODER,
                    data,
                    chosen,
                    seeds=[seed],
                    evaluation=evaluation,
                    output_dir=folder,
                    on_row=lambda row: show(row),
                    executor=executor,
                )
            for cell in comparison.failed:
                print(f"not measured: {cell.text}", flush=True)
        places = {method: place for place, method in enumerate(everything)}
        rows = read_rows(folder / "comparison.jsonl")
        comparison = Comparison(sorted(rows, key=lambda row: places.get(row.method, len(places))))
        comparison.save(folder)
        print(f"\n{folder}\n\n{comparison.markdown()}")


def load(name: str, images: int | None, seed: int) -> DataSplits:
    """Return the data of one seed."""
    if name in ("gtsrb", "cifar10"):
        return load_mosaic(name, images, seed)
    return load_data(name, image_size=(32, 32), seed=seed)


def show(row: ComparisonRow) -> None:
    """Print a row as it comes."""
    figures = ", ".join(f"{name} {100 * value:.1f}" for name, value in row.figures.items())
    print(f"{row.method}, seed {row.seed}: {figures}; {row.cpu_seconds:.0f} CPU s", flush=True)


def methods() -> dict[str, HardenConfig]:
    """Return all presets."""
    return {name: HardenConfig.preset(name) for name in PRESETS}


def ablations() -> dict[str, HardenConfig]:
    """Return the default without one of its parts, with more redundant layers, and the paper's losses with our rate."""
    return {
        "default": changed("default"),
        "no clean CE": changed("default", clean_weight=0.0),
        "no genetic term": changed("default", genetic_weight=0.0),
        "one optimizer": changed("default", schedule={"encoder_learning_rate": 3e-3, "head_learning_rate": 3e-3}),
        "no stage 2": changed("default", adaptability={"epochs": 0}),
        "no guard": changed("default", adaptability={"tolerance": 1.0}),
        "k = 50 %": changed("default", adaptability={"redundant_fraction": 0.5}),
        "k = 100 %": changed("default", adaptability={"redundant_fraction": 1.0}),
        "paper, encoder step 3e-3": changed("paper", schedule={"encoder_learning_rate": 3e-3}),
    }


def candidates() -> dict[str, HardenConfig]:
    """Return what the presets were chosen from: about 56 passes over the data each."""
    found = {}
    for rate in (3e-4, 1e-3, 3e-3, 1e-2):
        encoder = {"encoder_learning_rate": rate}
        found[f"default {rate:g}"] = changed("default", schedule=encoder)
        for epochs in (16, 32):
            schedule = {**encoder, "epochs": epochs}
            found[f"fine-tuning {rate:g}, {epochs} epochs"] = changed("fine-tuning", schedule=schedule)
        for steps, epochs in ((1, 27), (2, 18), (4, 11), (10, 5)):
            schedule, against = {**encoder, "epochs": epochs}, {"steps": steps, "step_size": STEP_SIZES[steps]}
            name = f"pgd-at {rate:g}, {counted(steps)}, {epochs} epochs"
            found[name] = changed("pgd-at", schedule=schedule, against=against)
        for steps, epochs in ((1, 19), (2, 14), (4, 9)):
            schedule, against = {**encoder, "epochs": epochs}, {"steps": steps, "step_size": STEP_SIZES[steps]}
            for method, symbol, weights in (("trades", "beta", (0.5, 1, 2, 6)), ("mart", "lambda", (1, 2, 5))):
                for weight in weights:
                    name = f"{method} {rate:g}, {symbol} {weight:g}, {counted(steps)}"
                    found[name] = changed(method, schedule=schedule, against=against, beta=float(weight))
        for size in (1, 8):
            schedule = {**encoder, "epochs": 40}
            name = f"universal-at {rate:g}, bank {size}"
            found[name] = changed("universal-at", schedule=schedule, against={"bank_size": size})
    for rate in (1e-3, 5e-3):
        found[f"linear-probe, head {rate:g}"] = changed("linear-probe", schedule={"head_learning_rate": rate})
    return found


def counted(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def variants() -> dict[str, HardenConfig]:
    """Return points in sample-wise share, universal budget, weight of the adversarial term and epochs."""
    found = {}
    for share, levels, weight, epochs in (
        (0.75, 10, 1, 16),
        (0.75, 12, 1, 16),
        (0.5, 10, 1, 20),
        (0.5, 10, 2, 20),
        (0.25, 10, 1, 24),
        (0.375, 12, 2, 20),
        (0.375, 12, 3, 20),
        (0, 12, 1, 16),
        (0, 10, 1, 16),
    ):
        found[f"share {share:g}, budget {levels}/255, weight {weight}, {epochs} epochs"] = changed(
            "default" if share else "fast",
            schedule={"epochs": epochs},
            adversarial_weight=float(weight),
            against={"sample_wise_share": float(share), "universal_epsilon": levels / 255},
        )
    found |= {name: changed(name) for name in ("default", "fast")}
    for levels in (10, 12):
        found[f"universal-at, budget {levels}/255"] = changed(
            "universal-at", schedule={"epochs": 40}, against={"universal_epsilon": levels / 255}
        )
    return found


def changed(preset: str, **settings: Any) -> HardenConfig:
    """Return a preset with some settings of its method replaced."""
    return HardenConfig.preset(preset).with_(method=settings)


CONFIGURATIONS = {"methods": methods, "ablation": ablations, "tuning": candidates, "variants": variants}


if __name__ == "__main__":
    main()
