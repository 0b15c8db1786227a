"""Which method is the most robust, and at what price? Encoders x data x methods x seeds, under the strongest attacks.

    python benchmarks/robustness.py --sets digits
    GENAF_DATA=FOLDER python benchmarks/robustness.py --sets gtsrb cifar10:4000 --methods default strict trades
    python benchmarks/robustness.py mobilenet_v1_x0.25 --encoders FOLDER --data FOLDER --sets trash --size 128
    python benchmarks/robustness.py --sets digits --validation --quick --methods default "default against.bank_size=2"

Encoders beside the bundled one are in ``--encoders``: folders as timm writes them, and ``mobilenet_v1.py`` with its
weights. ``--data`` holds a folder of pictures for each set. A method is a preset, and what is changed in it: settings
below ``method.``, as JSON. Every row is kept in OUTPUT/methods-ENCODER-SIZE-SET/comparison.jsonl as soon as it is
there: a run that was stopped goes on, and processes that have other cells may run beside it. Of a method and seed that
were measured with several settings the table has the last row. ``--validation`` scores on validation images,
``--quick`` without patches, for sweeps, whose rows are in OUTPUT/sweep-ENCODER-SIZE-SET: test images play no part in
choosing a preset. CIFAR-10 is what the bundled encoder was pre-trained on, without labels: in-domain.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mosaics import load_mosaic

from genaf_sdk import DataSplits, HardenConfig, compare, load_data, load_encoder
from genaf_sdk.cells import local_processes
from genaf_sdk.evaluation.settings import EvaluationConfig
from genaf_sdk.rows import ROWS_FILE, Comparison, ComparisonRow, latest, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk.models.encoder import PixelEncoder

METHODS = ("default", "strict", "fast", "fine-tuning", "trades", "pgd-at", "universal-at")
MOSAICS = ("gtsrb", "cifar10")
STRONG = EvaluationConfig(
    attacks=(
        *("uapgd", "cluster-uap", "label-uap", "encoder-patch", "cluster-patch"),
        *("plain-patch", "patch-uap"),
        *("pgd:budget=4/255", "pgd:budget=8/255", "patch"),
    ),
    surrogate_samples=1024,
    sample_wise_samples=100,
    curve=(),
    checks=False,
)
QUICK = STRONG.with_(attacks=("uapgd", "label-uap", "pgd:budget=4/255,steps=10"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", nargs="*", default=["bundled"], help=", ".join(ENCODERS))
    parser.add_argument("--encoders", type=Path, default=Path(), help="folder of encoders")
    parser.add_argument("--data", type=Path, default=Path(), help="folder of sets of pictures")
    parser.add_argument("--sets", nargs="+", default=["digits"], help="below --data, a data id, or gtsrb:IMAGES")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help='"PRESET SETTING=JSON ..."')
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--size", type=int, help="pixels a side; by default the encoder's own")
    parser.add_argument("--validation", action="store_true", help="score on validation images")
    parser.add_argument("--quick", action="store_true", help="weaker attacks, for sweeps")
    parser.add_argument("--precision", choices=["auto", "no", "bf16"], default="auto", help="no may be faster on a CPU")
    parser.add_argument("--output", type=Path, help="by default docs/results, of sweeps benchmarks/results")
    parser.add_argument("--threads", type=int, default=1, help="of all workers together")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the rows")
    arguments = parser.parse_args()
    unknown = set(arguments.encoder) - set(ENCODERS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ENCODERS)}")
    torch.set_num_threads(arguments.threads)
    sys.path.insert(0, str(arguments.encoders.resolve()))
    kind, place = ("sweep", "benchmarks") if arguments.validation or arguments.quick else ("methods", "docs")
    output = arguments.output or Path(place, "results")
    machine = {"mixed_precision": arguments.precision}
    chosen = {text: configured(text).with_(machine=machine) for text in arguments.methods}
    for name in arguments.encoder:
        side = None if arguments.size is None else (arguments.size, arguments.size)
        encoder = ENCODERS[name](arguments.encoders, side)
        for images in arguments.sets:
            label = f"{kind}-{name}-{(encoder.image_size or (32,))[0]}-{images.replace(':', '-')}"
            for seed in arguments.seeds:
                data = load(images, arguments.data, encoder, seed)
                if arguments.validation:
                    data = dataclasses.replace(data, test=data.validation)
                with local_processes(arguments.workers) as executor:
                    comparison = compare(
                        encoder,
                        data,
                        chosen,
                        seeds=[seed],
                        evaluation=QUICK if arguments.quick else STRONG,
                        output_dir=output / label,
                        on_row=show,
                        executor=executor,
                    )
                for cell in comparison.failed:
                    print(f"not measured: {cell.text}", flush=True)
            print(f"\n{label}, seed {seed}\n\n{comparison.markdown()}", flush=True)
            folder = output / label
            Comparison(latest(read_rows(folder / ROWS_FILE))).save(folder)  # of all calls, not of this one alone


def show(row: ComparisonRow) -> None:
    """Print a row as it comes."""
    figures = ", ".join(f"{name} {100 * value:.1f}" for name, value in row.figures.items())
    print(f"{row.method}, seed {row.seed}: {figures}; {row.cpu_seconds:.0f} CPU s", flush=True)


def configured(text: str) -> HardenConfig:
    """Return the settings that ``PRESET SETTING=JSON ...`` names; what is no JSON is text."""
    preset, *changes = text.split()
    config = HardenConfig.preset(preset)
    for change in changes:
        place, _, value = change.partition("=")
        nested: Any = _value(value)
        for part in reversed(place.split(".")):
            nested = {part: nested}
        config = config.with_(method=nested)
    return config


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def load(images: str, folder: Path, encoder: PixelEncoder, seed: int) -> DataSplits:
    """Return a folder of pictures, or so many images of a mosaic, at the encoder's size."""
    name, _, count = images.partition(":")
    if name in MOSAICS:
        return load_mosaic(name, int(count) if count else None, seed, encoder.image_size, encoder.interpolation)
    known = folder / name if (folder / name).is_dir() else name
    return load_data(known, image_size=encoder.image_size, interpolation=encoder.interpolation, seed=seed)


def _bundled(folder: Path, size: tuple[int, int] | None) -> PixelEncoder:
    del folder
    return load_encoder("bundled:simclr-cifar10", image_size=size)


def _mobilenet(folder: Path, size: tuple[int, int] | None, width: str) -> PixelEncoder:
    del folder  # it is where Python looks for modules
    module: Any = importlib.import_module("mobilenet_v1")
    return load_encoder(module.mobilenet_v1(width), image_size=size)


def _from_folder(folder: Path, size: tuple[int, int] | None, name: str) -> PixelEncoder:
    return load_encoder(folder / name, image_size=size)


ENCODERS: dict[str, Callable[[Path, tuple[int, int] | None], PixelEncoder]] = {
    "mobilenet_v1_x0.25": partial(_mobilenet, width="x0.25"),
    "mobilenet_v1_x0.5": partial(_mobilenet, width="x0.5"),
    "efficientnet_lite0": partial(_from_folder, name="efficientnet_lite0"),
    "bundled": _bundled,
}
"""In the order of how telling they are for their time."""


if __name__ == "__main__":
    main()
