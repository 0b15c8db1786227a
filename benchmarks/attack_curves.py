r"""Accuracy against processor seconds for attacks on saved models: one JSON line a row, resumable.

    GENAF_DATA=FOLDER python benchmarks/attack_curves.py --model BUNDLE --data gtsrb --output rows.jsonl \
        --attacks uapgd:steps=25 uapgd:steps=100 label-uap patch-uap encoder-patch patch --n 2000
    python benchmarks/attack_curves.py --table rows.jsonl

A model whose encoder is a module of the caller's own needs ``--encoder NAME --encoders FOLDER`` (see robustness.py).
Attacks on encoders are crafted on the model's own encoder (adaptive) and, where ``--published ID`` or ``--encoder``
names the published one, on that (transfer). Universal ones see training images and are scored on test images; of
several tries the one counts that does most to training images. Sample-wise ones attack the first test images. Seconds
are those of this process on ``--threads`` threads, loading and scoring left out. A row has all settings of its attack,
data and numbers of images, and is measured again where any of them has changed since.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mosaics import load_mosaic
from robustness import ENCODERS
from rows import Rows
from torch import Tensor, nn

from genaf_sdk import HardenedModel, load_data
from genaf_sdk.attacks import (
    Attack,
    EncoderAttack,
    FeatureAttack,
    Perturbation,
    SampleWiseAttack,
    UniversalModelAttack,
    load_attack,
)
from genaf_sdk.encoders import load_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from genaf_sdk.data import DataSplits

KEY = ("model", "data", "published", "surrogate", "seed", "attack", "settings", "n", "column")


@dataclass(frozen=True)
class Subject:
    """A model, the published encoder if there is one, and the images."""

    name: str
    model: HardenedModel
    published: nn.Module | None
    surrogate: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--data", help="gtsrb, cifar10 (mosaics), or what load_data takes")
    parser.add_argument("--published", help="id of the encoder that the transfer column is crafted on")
    parser.add_argument("--encoder", choices=list(ENCODERS), help="what the model was made from, for its architecture")
    parser.add_argument("--encoders", type=Path, default=Path(), help="folder of encoders")
    parser.add_argument("--attacks", nargs="+", default=[])
    parser.add_argument("--surrogate", type=int, default=2048, help="training images that universal attacks see")
    parser.add_argument("--n", type=int, default=2000, help="test images that universal attacks are scored on")
    parser.add_argument("--each", type=int, default=100, help="test images that sample-wise attacks are scored on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("attack-curves.jsonl"))
    parser.add_argument("--table", type=Path, nargs="+", help="print rows as a table and measure nothing")
    arguments = parser.parse_args()
    if arguments.table:
        print(table([json.loads(line) for path in arguments.table for line in path.read_text().splitlines()]))
        return
    if arguments.model is None or arguments.data is None:
        parser.error("--model and --data say what is attacked, or --table which rows are shown")
    torch.set_num_threads(arguments.threads)
    rows, subject = Rows(arguments.output, KEY), read(arguments)
    setting = {"model": subject.name, "data": arguments.data, "published": arguments.published or arguments.encoder}
    setting |= {"surrogate": len(subject.surrogate[0]), "seed": arguments.seed}
    for text in arguments.attacks:
        attack = load_attack(text)
        most = arguments.each if isinstance(attack, (FeatureAttack, SampleWiseAttack)) else arguments.n
        scored = setting | {"attack": text, "settings": asdict(attack), "n": min(most, len(subject.test[0]))}
        for column in columns(attack, subject):
            asked = scored | {"column": column}
            if rows.has(**asked):
                continue
            row = asked | measure(subject, attack, column, arguments) | {"machine": platform.machine()}
            rows.add(row)
            print(table([row]).splitlines()[-1], flush=True)


def columns(attack: Attack, subject: Subject) -> Iterator[str]:
    """Yield which encoders, or the whole model, an attack is crafted on."""
    if isinstance(attack, (EncoderAttack, FeatureAttack)):
        yield from ["transfer", "adaptive"] if subject.published is not None else ["adaptive"]
    else:
        yield "white-box"


def measure(subject: Subject, attack: Attack, column: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return accuracy, n and processor seconds, and what the attack says of itself."""
    model, (images, image_labels), (pixels, labels) = subject.model, subject.surrogate, subject.test
    encoder: Any = subject.published if column == "transfer" else model.encoder
    few, few_labels = pixels[: arguments.each], labels[: arguments.each]
    found: Perturbation | None = None
    tries: list[Perturbation] = []
    started = time.process_time()
    if isinstance(attack, SampleWiseAttack):
        attacked = attack(model, few, few_labels, seed=arguments.seed)
    elif isinstance(attack, FeatureAttack):
        attacked = attack(encoder, few, seed=arguments.seed)
    elif isinstance(attack, UniversalModelAttack):
        found = attack(model, images, image_labels, seed=arguments.seed)
    elif isinstance(attack, EncoderAttack):
        tries = attack.tries(encoder, images, seed=arguments.seed)
    else:
        raise TypeError(f"{attack.name} is of no kind that this script knows")
    seconds = time.process_time() - started
    if tries:
        found = strongest(model, tries, images, image_labels)
    correct, n = right(model, attacked if found is None else found.apply(pixels), labels)
    row = {"n": n, "correct": correct, "cpu_seconds": round(seconds, 1), "threads": arguments.threads}
    details = {} if found is None else found.details
    return row | {name: details[name] for name in ("loss", "places", "converged", "held_out_rate") if name in details}


def strongest(model: nn.Module, tries: list[Perturbation], images: Tensor, labels: Tensor) -> Perturbation:
    """Return what leaves the model fewest of 512 training images right, as an evaluation chooses among tries."""
    return min(tries, key=lambda found: right(model, found.apply(images[:512]), labels)[0])


@torch.no_grad()
def right(model: nn.Module, pixels: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return how many images the model gets right, and of how many."""
    predicted = torch.cat([model(batch).argmax(dim=1) for batch in pixels.split(250)])
    return int((predicted == labels[: len(pixels)]).sum()), len(pixels)


def read(arguments: argparse.Namespace) -> Subject:
    """Load the model, and the images as it takes them."""
    sys.path.insert(0, str(arguments.encoders.resolve()))
    backbone = ENCODERS[arguments.encoder](arguments.encoders, None).backbone if arguments.encoder else None
    model = HardenedModel.from_pretrained(arguments.model, backbone=backbone).eval()
    size = model.image_size
    data: DataSplits = (
        load_mosaic(arguments.data, None, 0)
        if arguments.data in ("gtsrb", "cifar10")
        else load_data(arguments.data, image_size=size, interpolation=model.encoder.interpolation, seed=0)
    )
    published: nn.Module | None = None
    if arguments.published is not None:
        published = load_encoder(arguments.published, image_size=size)
    elif arguments.encoder is not None:
        published = ENCODERS[arguments.encoder](arguments.encoders, size)
    images, image_labels = data.train.sample(arguments.surrogate, seed=arguments.seed)
    pixels, labels = data.test.sample(arguments.n, seed=arguments.seed)
    images, pixels = (part.contiguous(memory_format=torch.channels_last) for part in (images, pixels))
    return Subject(arguments.model.name, model, published, (images, image_labels), (pixels, labels))


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as Markdown, by model and column, the strongest attack first."""
    lines = [
        "| model | column | attack | accuracy (n) | CPU s | converged |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for row in sorted(rows, key=lambda row: (row["model"], row["column"], row["correct"] / row["n"])):
        accuracy, converged = f"{row['correct'] / row['n']:.1%} ({row['n']})", {True: "yes", False: "no"}
        lines.append(
            f"| {row['model']} | {row['column']} | `{row['attack']}` | {accuracy} | {row['cpu_seconds']:.0f} "
            f"| {converged.get(row.get('converged'), '')} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
