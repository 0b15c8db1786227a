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
from genaf_sdk.presets import PRESETS
from mosaics import load_mosaic

from genaf_sdk import DataSplits, HardenConfig, compare, load_data
from genaf_sdk.comparison import EVALUATION, Comparison, ComparisonRow, read_rows
from genaf_sdk.config import EvaluationConfig

ENCODER = "bundled:simclr-cifar10"
QUICK = EvaluationConfig(
    attacks=("uapgd:steps=50", "label-uap:steps=50", "pgd:steps=10", "pgd:steps=10,budget=4/255"),
    curve=(),
    checks=False,
)
QUICK_WITH_PATCH = dataclasses.replace(
    QUICK, attacks=(QUICK.attacks[0], "advencoder-pat:batch_size=128,noise_maps=8", *QUICK.attacks[1:])
)

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
    parser.add_argument("--threads", type=int, default=1)
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
            compare(
                ENCODER,
                data,
                chosen,
                seeds=[seed],
                evaluation=evaluation,
                output_dir=folder,
                on_row=lambda row: show(row),
            )
        rows = sorted(read_rows(folder / "comparison.jsonl"), key=lambda row: list(everything).index(row.method))
        comparison = Comparison([row for row in rows if row.method in everything])
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
    return {name: entry.config for name, entry in PRESETS.items()}


def ablations() -> dict[str, HardenConfig]:
    """Return the default without one of its parts, with more redundant layers, and the paper's losses with our step."""
    default = HardenConfig()
    return {
        "default": default,
        "no clean CE": changed(default, dual_track={"clean_weight": 0.0}),
        "no genetic term": changed(default, dual_track={"genetic_weight": 0.0}),
        "with alignment": changed(default, dual_track={"alignment_weight": 1.0}),
        "one optimizer": changed(default, dual_track={"encoder_learning_rate": 3e-3, "head_learning_rate": 3e-3}),
        "no stage 2": changed(default, adaptability={"epochs": 0}),
        "no guard": changed(default, adaptability={"tolerance": 1.0}),
        "k = 50 %": changed(default, adaptability={"redundant_fraction": 0.5}),
        "k = 100 %": changed(default, adaptability={"redundant_fraction": 1.0}),
        "paper, encoder step 3e-3": changed("paper", dual_track={"encoder_learning_rate": 3e-3}),
    }


def candidates() -> dict[str, HardenConfig]:
    """Return what the presets were chosen from: about 56 passes over the data each."""
    found = {}
    for rate in (3e-4, 1e-3, 3e-3, 1e-2):
        step = {"encoder_learning_rate": rate}
        found[f"default {rate:g}"] = changed("default", dual_track=step)
        for epochs in (16, 32):
            found[f"fine-tuning {rate:g}, {epochs} epochs"] = changed(
                "fine-tuning", dual_track={**step, "epochs": epochs}
            )
        for steps, epochs in ((1, 27), (2, 18), (4, 11), (10, 5)):
            adversary = {"steps": steps, "step_size": STEP_SIZES[steps]}
            track = {**step, "epochs": epochs, "adversary": adversary}
            found[f"pgd-at {rate:g}, {counted(steps)}, {epochs} epochs"] = changed("pgd-at", dual_track=track)
        for steps, epochs in ((1, 19), (2, 14), (4, 9)):
            adversary = {"steps": steps, "step_size": STEP_SIZES[steps]}
            for method, symbol, weights in (("trades", "beta", (0.5, 1, 2, 6)), ("mart", "lambda", (1, 2, 5))):
                for weight in weights:
                    track = {**step, "epochs": epochs, "divergence_weight": float(weight), "adversary": adversary}
                    name = f"{method} {rate:g}, {symbol} {weight:g}, {counted(steps)}"
                    found[name] = changed(method, dual_track=track)
        for size in (1, 8):
            track = {**step, "epochs": 40, "adversary": {"bank_size": size}}
            found[f"universal-at {rate:g}, bank {size}"] = changed("universal-at", dual_track=track)
    for rate in (1e-3, 5e-3):
        found[f"linear-probe, head {rate:g}"] = changed("linear-probe", dual_track={"head_learning_rate": rate})
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
        adversary = {"sample_wise_share": share, "universal_budget": levels / 255}
        weights = {"adversarial_weight": float(weight), "alignment_weight": 1.0}
        track = {"epochs": epochs, **weights, "adversary": adversary}
        found[f"share {share:g}, budget {levels}/255, weight {weight}, {epochs} epochs"] = changed(
            "default" if share else "fast", dual_track=track
        )
    for name in ("default", "fast"):
        found |= {name: changed(name), f"{name}, alignment": changed(name, dual_track={"alignment_weight": 1.0})}
    for levels in (10, 12):
        adversary = {"universal_budget": levels / 255}
        found[f"universal-at, budget {levels}/255"] = changed(
            "universal-at", dual_track={"epochs": 40, "adversary": adversary}
        )
    return found


def changed(config: HardenConfig | str, **sections: dict[str, Any]) -> HardenConfig:
    """Return a configuration with some settings of some sections replaced."""
    content = (HardenConfig.preset(config) if isinstance(config, str) else config).to_dict()
    for section, settings in sections.items():
        adversary = {**content[section].get("adversary", {}), **settings.pop("adversary", {})}
        content[section] |= settings | ({"adversary": adversary} if adversary else {})
    return HardenConfig.from_dict(content)


CONFIGURATIONS = {"methods": methods, "ablation": ablations, "tuning": candidates, "variants": variants}


if __name__ == "__main__":
    main()
