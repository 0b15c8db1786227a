"""What does robustness cost? Processor seconds to an accuracy under the worst DAE, here and with other packages.

    pip install --target PEERS --no-deps torchattacks
    PYTHONPATH=PEERS python benchmarks/price.py curves epochs
    GENAF_DATA=FOLDER PYTHONPATH=PEERS python benchmarks/price.py curves --data gtsrb:3000 --batch-size 32 --epochs 6 \
        --at 6 --output docs/results/price-signs

``curves`` trains the bundled encoder in every way of trainers.py, for so many epochs each, and measures after some of
them: accuracy on clean images, and the lowest under universal perturbations of 10/255 and under patches of 3 % that
transfer from the published encoder (the same for all), and under adaptive ones, crafted on the model's own encoder. Of
test images up to 1,000 are taken; ``gtsrb:IMAGES`` is read as mosaics.py says. ``epochs`` takes the time of one epoch
of PGD-AT, in turn. Every training is a line of a file under OUTPUT as soon as it is done: a measurement of the same
settings that was stopped goes on. All train on the processor. ``steps`` takes the time of three steps of PGD, with and
without what ours does to the model (channels-last, batch norms folded into convolutions) and with what it does not do.
ART comes with ``genaf-sdk[autoattack]``.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from mosaics import load_mosaic
from rows import Row, Rows
from timing import in_precision, interleaved, machine, median, parser_of, processor_alone, spread, table
from torch import Tensor, nn
from trainers import EPOCHS, EPSILON, STEP, TRAINERS, Snapshot, Task, Watch, seed_everything

from genaf_sdk import DataSplits, load_data, load_encoder
from genaf_sdk.attacks import Perturbation, load_attack
from genaf_sdk.methods import steps as sign_steps

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from genaf_sdk.models.encoder import PixelEncoder

ENCODER = "bundled:simclr-cifar10"
PATCHES = ("plain-patch", "encoder-patch")
TRANSFERRED = ("uapgd:steps=60", "uapgd:steps=60,loss=info-nce", *PATCHES)
ADAPTIVE = ("uapgd:steps=30,batch_size=64", "uapgd:steps=30,batch_size=64,loss=info-nce", *PATCHES)
COLUMNS = tuple(f"{column}, {kind}" for kind in ("perturbation", "patch") for column in ("transfer", "adaptive"))
SURROGATES, TEST_IMAGES = 512, 1000
SETTINGS = ("data", "batch_size", "epochs", "steps", "precision", "seed")
OF_EPOCHS = ("data", "batch_size", "steps", "seed", "images")


def main() -> None:
    """Read the options and measure."""
    parser = parser_of(__doc__, repeats=3, processor=True, records=False)
    parser.add_argument("what", nargs="*", choices=("curves", "epochs", "steps"), default=["curves", "epochs"])
    parser.add_argument("--only", nargs="+", choices=list(TRAINERS), default=list(TRAINERS))
    parser.add_argument("--data", default="digits", help="digits, or gtsrb:IMAGES")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4, help="of every training")
    parser.add_argument("--at", type=int, nargs="+", default=[1, 2, 3, 4], help="epochs after which to measure")
    parser.add_argument("--steps", type=int, default=10, help="of PGD, in the other packages' training")
    parser.add_argument("--precision", choices=("auto", "no", "bf16"), default="auto", help="of our training")
    parser.add_argument("--images", type=int, default=512, help="of an epoch, for epochs")
    parser.add_argument("--output", type=Path, default=Path("docs/results/price-digits"))
    arguments = parser.parse_args()
    with processor_alone():
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Measure and print what is asked for."""
    torch.set_num_threads(arguments.threads)
    name, _, images = arguments.data.partition(":")
    if name == "digits":
        data = load_data("digits", image_size=(32, 32), seed=arguments.seed)
    else:
        data = load_mosaic(name, int(images) if images else None, arguments.seed)
    published = load_encoder(ENCODER)
    if "curves" in arguments.what:
        rows = Rows(arguments.output / "curves.jsonl", ("trainer", *SETTINGS))
        measure_curves(rows, published, data, arguments)
        alike = [name for name in SETTINGS if name != "epochs"]
        print(prices(rows.of(**{name: getattr(arguments, name) for name in alike})))
    if "epochs" in arguments.what:
        rows = Rows(arguments.output / "epochs.jsonl", ("trainer", "round", *OF_EPOCHS))
        few = dataclasses.replace(data, train=data.train.subset(range(min(len(data.train), arguments.images))))
        same = {name: getattr(arguments, name) for name in OF_EPOCHS} | {"images": len(few.train)}
        measure_epochs(rows, same, task_of(published, few, 1, arguments), arguments)
        print(epochs_table(rows.of(**same)))
    if "steps" in arguments.what:
        print(table(measured_steps(published, data, arguments)))


def measure_curves(rows: Rows, published: PixelEncoder, data: DataSplits, arguments: argparse.Namespace) -> None:
    """Train in every way, and measure what came of it."""
    transferred: list[Perturbation] = []
    surrogates, _ = data.train.sample(SURROGATES, seed=arguments.seed)
    for trainer in arguments.only:
        key = {name: getattr(arguments, name) for name in SETTINGS} | {"trainer": trainer}
        if rows.has(**key):
            require_points(rows.of(**key)[-1], arguments)
            continue
        if not transferred:
            transferred = [load_attack(text)(published, surrogates, seed=arguments.seed) for text in TRANSFERRED]
        task = task_of(published, data, arguments.epochs, arguments)
        watch = trained(trainer, task, tuple(arguments.at), arguments)
        curve = [measured(snapshot, task, transferred, surrogates) for snapshot in watch.snapshots]
        rows.add({**key, "curve": curve, "n": min(TEST_IMAGES, len(data.test)), "machine": machine(arguments)})
        print(f"{trainer}: {curve[-1]}", flush=True)


def require_points(row: Row, arguments: argparse.Namespace) -> None:
    """Refuse a row that was measured after other epochs than those that are asked for."""
    asked = {epoch for epoch in arguments.at if epoch <= arguments.epochs}
    missing = asked - {point["epoch"] for point in row["curve"]}
    if missing:
        raise SystemExit(
            f"{row['trainer']} is in {arguments.output} without what --at asks for, after "
            f"{', '.join(map(str, sorted(missing)))} epochs: name another --output"
        )


def task_of(published: PixelEncoder, data: DataSplits, epochs: int, arguments: argparse.Namespace) -> Task:
    """Return what is trained; in torch's own memory format, which ours changes by itself."""
    return Task(published, data, epochs, arguments.seed, arguments.steps, arguments.precision, arguments.batch_size)


def trained(name: str, task: Task, kept: tuple[int, ...], arguments: argparse.Namespace) -> Watch:
    """Train in one way, watched."""
    seed_everything(arguments.seed)
    watch = Watch(clock=arguments.clock, kept=kept)
    {**TRAINERS, **EPOCHS}[name](task, watch)
    return watch


def measured(snapshot: Snapshot, task: Task, transferred: list[Perturbation], surrogates: Tensor) -> Row:
    """Return accuracies in [0, 1] of the model after an epoch."""
    model = task.model()
    model.load_state_dict(snapshot.weights)
    model.eval()
    pixels, labels = task.data.test.sample(TEST_IMAGES, seed=task.seed)

    @torch.no_grad()
    def accuracy(images: Tensor) -> float:
        found = torch.cat([model(batch).argmax(dim=1) for batch in images.split(512)])
        return round(float((found == labels).float().mean()), 4)

    adaptive = [load_attack(text)(model.encoder, surrogates, seed=task.seed) for text in ADAPTIVE]
    under: dict[str, list[float]] = {}
    for column, found in (("transfer", transferred), ("adaptive", adaptive)):
        for one in found:
            kind = "patch" if one.mask is not None else "perturbation"
            under.setdefault(f"{column}, {kind}", []).append(accuracy(one.apply(pixels)))
    worst = {name: min(accuracies) for name, accuracies in under.items()}
    return {
        "epoch": snapshot.epoch,
        "seconds": snapshot.seconds,
        "clean": accuracy(pixels),
        **worst,
        "worst": min(worst.values()),
    }


def measure_epochs(rows: Rows, same: dict[str, Any], task: Task, arguments: argparse.Namespace) -> None:
    """Take the time of an epoch, in turn; each way first trains for one with a single step, which does not count."""
    cold = set(EPOCHS)
    for number in range(arguments.repeats):
        for name in list(EPOCHS)[:: -1 if number % 2 else 1]:
            key = {"trainer": name, "round": number, **same}
            if not rows.has(**key):
                if name in cold:
                    trained(name, dataclasses.replace(task, steps=1), (1,), arguments)
                    cold.discard(name)
                seconds = trained(name, task, (1,), arguments).snapshots[-1].seconds
                rows.add({**key, "seconds": seconds, "machine": machine(arguments)})
                print(f"{name}: {seconds:.1f} s", flush=True)


def measured_steps(published: PixelEncoder, data: DataSplits, arguments: argparse.Namespace) -> list[Row]:
    """Return the seconds of three steps of PGD on 128 images, for the model as torch has it and as ours does."""
    task = task_of(published, data, 1, arguments)
    images, labels = data.train.sample(arguments.batch_size, seed=arguments.seed)
    device = torch.device("cpu")
    settings = sign_steps.SignSteps(epsilon=EPSILON, step_size=STEP, steps=3)

    def ways(
        model: nn.Module,
        pixels: Tensor,
        folded: Callable[..., Any] = sign_steps.folded_batch_norms,
        part: int | None = None,
        precision: str = "fp32",
    ) -> Callable[[], object]:
        def run() -> None:
            with mock.patch.object(sign_steps, "folded_batch_norms", folded), in_precision(precision, device):
                for some, classes in zip(
                    *(whole.split(part or len(pixels)) for whole in (pixels, labels)), strict=True
                ):
                    sign_steps.ascend(model, some, classes, torch.zeros_like(some), settings)

        return run

    plain, placed, none = task.model(), data.space.placed(task.model()), lambda *_: nullcontext()
    arranged = images.contiguous(memory_format=torch.channels_last)
    candidates = {
        "as torch has it": ways(plain, images, none),
        "channels-last": ways(placed, arranged, none),
        "channels-last, batch norms folded (ours)": ways(placed, arranged),
        "ours, in parts of 32 images": ways(placed, arranged, part=32),
        "ours, in bf16": ways(placed, arranged, precision="bf16"),
    }
    seconds = interleaved(candidates, arguments.repeats, device, clock=arguments.clock)
    return [{"PGD, three steps": name, "CPU s": spread(values)} for name, values in seconds.items()]


def reached(curve: list[Row], accuracy: float) -> float | None:
    """Return the seconds after which the worst DAE first leaves so much accuracy; None if it never does."""
    return next((point["seconds"] for point in curve if point["worst"] >= accuracy), None)


def prices(rows: list[Row]) -> str:
    """Return the table: a line for each way of training and number of epochs, the cheapest first.

    An accuracy may be reached sooner in a training of more epochs, whose budgets rise more slowly, or of fewer.
    """
    ours = [row["curve"] for row in rows if row["trainer"] == "default"]
    lines = []
    for row in sorted(rows, key=lambda row: row["curve"][-1]["seconds"]):
        first, last = row["curve"][0], row["curve"][-1]
        seconds = [found for curve in ours if (found := reached(curve, last["worst"])) is not None]
        lines.append(
            {
                "training": row["trainer"],
                "epochs": row["epochs"],
                "CPU s an epoch": f"{first['seconds'] / first['epoch']:.1f}",
                "CPU s": f"{last['seconds']:.0f}",
                "clean": f"{100 * last['clean']:.1f} %",
                **{name: f"{100 * last[name]:.1f} %" for name in COLUMNS},
                "`default` to the lowest, CPU s": f"{min(seconds):.0f}" if seconds else "never",
            }
        )
    return table(lines)


def epochs_table(rows: list[Row]) -> str:
    """Return the seconds of an epoch, and how many times as long it takes elsewhere; rows of equal images and steps."""
    seconds = {name: [row["seconds"] for row in rows if row["trainer"] == name] for name in EPOCHS}
    seconds = {name: values for name, values in seconds.items() if values}
    own = {name: median(values) for name, values in seconds.items() if name.startswith("ours")}
    return table(
        [
            {"training": name, "CPU s an epoch": spread(values)}
            | {f"times {other}": f"{median(values) / value:.1f}" for other, value in own.items()}
            for name, values in seconds.items()
        ]
    )


if __name__ == "__main__":
    main()
