"""How strong is every attack? Accuracy of an undefended fine-tuned bundled encoder under each, as a Markdown table.

    GENAF_DATA=FOLDER python benchmarks/attacks_strength.py            # digits, CIFAR-10 and GTSRB
    python benchmarks/attacks_strength.py --data digits --attacks uapgd ssp

Attacks on encoders are crafted twice, on the published encoder ("transfer") and on the fine-tuned one ("own"), each on
training images without labels; attacks on whole models once, "own". All are scored on test images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from attack_curves import strongest
from mosaics import read_mosaic
from torch import Tensor, nn

from genaf_sdk.attacks import (
    Attack,
    EncoderAttack,
    FeatureAttack,
    Perturbation,
    SampleWiseAttack,
    UniversalModelAttack,
    known_attacks,
    load_attack,
)
from genaf_sdk.config import HardenConfig
from genaf_sdk.data import DataSplits, LabeledImages, load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import train
from genaf_sdk.hardened import HardenedModel
from genaf_sdk.methods.lab import Lab
from genaf_sdk.models.heads import build_head

ENCODER = "bundled:simclr-cifar10"
TRAIN, TEST = 5000, 1000


@dataclass(frozen=True)
class Subject:
    """A fine-tuned model, the published encoder it came from, and the images of the task."""

    name: str
    model: HardenedModel
    published: nn.Module
    surrogate: Tensor
    surrogate_labels: Tensor
    pixels: Tensor
    labels: Tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=["digits", "cifar10", "gtsrb"])
    parser.add_argument("--attacks", nargs="+", default=[name for name in known_attacks() if name != "autoattack"])
    parser.add_argument("--surrogate", type=int, default=1024, help="images that universal attacks are crafted on")
    parser.add_argument("--sample-wise", type=int, default=200, help="images that sample-wise attacks are scored on")
    parser.add_argument("--epochs", type=int, default=HardenConfig().baseline.epochs, help="of fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = ["noise", *(name for name in arguments.attacks if name.partition(":")[0] != "noise")]
    cells: dict[str, dict[str, str]] = {"clean": {}} | {name: {} for name in names}
    for data in arguments.data:
        subject = finetuned(data, arguments.epochs, arguments.surrogate, arguments.seed)
        cells["clean"][data] = f"{right(subject, subject.pixels):.1%}"
        for name in names:
            cell = measure(subject, load_attack(name), arguments.sample_wise, arguments.seed)
            cells[name][data] = cell
            print(f"{data}: {name}: {cell}", flush=True)
    print(f"\n| attack | {' | '.join(arguments.data)} |\n|---|{'---|' * len(arguments.data)}")
    for name, row in cells.items():
        print(f"| {name} | {' | '.join(row.get(data, '') for data in arguments.data)} |")


def measure(subject: Subject, attack: Attack, sample_wise: int, seed: int) -> str:
    """Return a cell of the table: transfer / own accuracy and the seconds that crafting took."""
    model = subject.model
    if isinstance(attack, SampleWiseAttack):
        started = time.monotonic()
        adversarial = attack(model, subject.pixels[:sample_wise], subject.labels[:sample_wise], seed=seed)
        seconds = time.monotonic() - started
        return f"{right(subject, adversarial):.1%} (n {len(adversarial)}, {seconds:.0f} s)"
    if isinstance(attack, FeatureAttack):
        started, pixels = time.monotonic(), subject.pixels[:sample_wise]
        moved = [attack(encoder, pixels, seed=seed) for encoder in (subject.published, model.encoder)]
        seconds = (time.monotonic() - started) / len(moved)
        accuracies = [f"{right(subject, images):.1%}" for images in moved]
        return f"{' / '.join(accuracies)} (n {len(pixels)}, {seconds:.0f} s)"
    if isinstance(attack, UniversalModelAttack):
        crafted = [attack(model, subject.surrogate, subject.surrogate_labels, seed=seed)]
    elif isinstance(attack, EncoderAttack):
        tries = (attack.tries(encoder, subject.surrogate, seed=seed) for encoder in (subject.published, model.encoder))
        crafted = [strongest(model, found, subject.surrogate, subject.surrogate_labels) for found in tries]
    else:
        raise TypeError(f"{attack.name} is of no kind that this script knows")
    accuracies = [f"{right(subject, perturbation.apply(subject.pixels)):.1%}" for perturbation in crafted]
    seconds = sum(float(perturbation.details["seconds"] or 0) for perturbation in crafted) / len(crafted)
    control = ""
    if crafted[0].mask is not None:
        values = torch.rand(crafted[0].values.shape, generator=torch.Generator().manual_seed(seed))
        noise = Perturbation(values, crafted[0].threat, crafted[0].mask)
        control = f"; random patch {right(subject, noise.apply(subject.pixels)):.1%}"
    return f"{' / '.join(accuracies)} ({seconds:.0f} s{control})"


@torch.no_grad()
def right(subject: Subject, pixels: Tensor) -> float:
    """Return the share of images that the model gets right."""
    predicted = torch.cat([subject.model(batch).argmax(dim=1) for batch in pixels.split(500)])
    return float((predicted == subject.labels[: len(pixels)]).float().mean())


def finetuned(name: str, epochs: int, surrogate: int, seed: int) -> Subject:
    """Fine-tune the bundled encoder on clean images alone, as the "before" of a report."""
    data = read(name)
    torch.manual_seed(seed)
    size = data.image_shape[1:]
    model = HardenedModel(
        load_encoder(ENCODER),
        build_head("mlp", 192, len(data.class_names)),
        class_names=data.class_names,
        image_size=size,
    )
    run = Run(Accelerator(cpu=True), seed=seed, show_progress=False)
    standard = HardenConfig().with_(baseline={"epochs": epochs}).standard_fine_tuning()
    train(run, model, data, Lab(run, model, data).stage("stage 1", standard))
    published = load_encoder(ENCODER).to(memory_format=torch.channels_last)
    images, image_labels = data.train.sample(surrogate, seed=seed)
    pixels, labels = data.test.sample(TEST, seed=seed)
    images, pixels = (part.contiguous(memory_format=torch.channels_last) for part in (images, pixels))
    return Subject(name, model.eval(), published, images, image_labels, pixels, labels)


def read(name: str) -> DataSplits:
    """Return digits, or a mosaic's first images of every class: up to 5,000 for training and 1,000 for testing."""
    if name == "digits":
        return load_data("digits", image_size=(32, 32))
    (train, targets), (test, labels) = read_mosaic(name, "train"), read_mosaic(name, "test")
    chosen, scored = even_sample(targets, TRAIN), even_sample(labels, TEST)
    training = LabeledImages.in_memory(train[chosen], targets[chosen])
    # Nothing is chosen by validation here; it only has to be there.
    return DataSplits(
        training,
        training,
        LabeledImages.in_memory(test[scored], labels[scored]),
        class_names=tuple(str(index) for index in range(int(targets.max()) + 1)),
        name=name,
    )


def even_sample(labels: Tensor, count: int) -> Tensor:
    """Return the indices of ``count`` images, the first of every class, then the second, and so on."""
    place = torch.zeros_like(labels)
    for label in labels.unique():
        members = labels == label
        place[members] = torch.arange(int(members.sum()))
    return torch.argsort(place, stable=True)[:count]


if __name__ == "__main__":
    main()
