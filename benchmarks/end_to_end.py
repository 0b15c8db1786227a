"""What does hardening cost beside plain fine-tuning to the same clean accuracy?

    python benchmarks/end_to_end.py                                   # digits, bundled encoder
    python benchmarks/end_to_end.py --presets default paper --data path/to/pictures

Plain fine-tuning is the cheapest of ``--epochs`` many whose clean validation accuracy reaches the hardened model's,
less ``--slack``. The seconds are those of training, without the evaluation's attacks; the methods are run in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from timing import CLOCKS, Record, begin, finish, median, parser_of, spread, table

from genaf_sdk import HardenConfig, HardenResult, harden
from genaf_sdk.data import load_data
from genaf_sdk.engine.accuracy import accuracy
from genaf_sdk.methods import FineTuning

if TYPE_CHECKING:
    import torch

    from genaf_sdk.data import DataSplits


def main() -> None:
    parser = parser_of(__doc__, repeats=1)
    parser.add_argument("--encoder", default="bundled:simclr-cifar10")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--presets", nargs="+", default=["default", "fast"])
    parser.add_argument("--epochs", nargs="+", type=int, default=[4, 8, 16, 32], help="of plain fine-tuning")
    parser.add_argument("--slack", type=float, default=0.0, help="clean accuracy that plain fine-tuning may lack")
    arguments = parser.parse_args()
    device = begin(arguments)
    data = load_data(arguments.data, image_size=(arguments.size,) * 2, validation_fraction=0.15, seed=arguments.seed)
    ways = {f"harden, {name}": HardenConfig.preset(name) for name in arguments.presets}
    ways |= {f"plain, {epochs} epochs": plain(epochs) for epochs in arguments.epochs}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    clean: dict[str, list[float]] = {name: [] for name in ways}
    parts: dict[str, dict[str, float]] = {}
    for repeat in range(arguments.repeats):
        for name, config in ways.items():
            started = CLOCKS[arguments.clock]()
            seeded = config.with_(seed=arguments.seed + repeat)
            result = harden(arguments.encoder, data, seeded, evaluate=False, progress=False)
            seconds[name].append(CLOCKS[arguments.clock]() - started)
            clean[name].append(validation_accuracy(result, data, device))
            parts[name] = result.seconds
            print(f"{name}: {seconds[name][-1]:.1f} s, {clean[name][-1]:.1%}", flush=True)
    records: list[Record] = []
    for name in ways:
        record: Record = {
            "method": name,
            "clean validation accuracy": f"{median(clean[name]):.1%}",
            "seconds": spread(seconds[name]),
        }
        if name.startswith("harden"):
            rival = reference(median(clean[name]) - arguments.slack, clean, seconds)
            record["times plain"] = "no plain run is as accurate"
            if rival is not None:
                record["times plain"] = f"{median(seconds[name]) / median(seconds[rival]):.1f} ({rival})"
        else:
            record["times plain"] = ""
        records.append(record | {"parts": " ".join(f"{part} {value:.1f}" for part, value in parts[name].items())})
    print("\n" + table(records))
    finish(arguments, records)


def plain(epochs: int) -> HardenConfig:
    """Return ordinary fine-tuning with the default's schedule, but for the number of epochs."""
    default = HardenConfig()
    return default.with_(method=FineTuning(schedule=default.method.schedule.with_(epochs=epochs)))


def reference(wanted: float, clean: dict[str, list[float]], seconds: dict[str, list[float]]) -> str | None:
    """Return the fastest plain run of at least the ``wanted`` accuracy."""
    able = [name for name, values in clean.items() if name.startswith("plain") and median(values) >= wanted]
    return min(able, key=lambda name: median(seconds[name]), default=None)


def validation_accuracy(result: HardenResult, data: DataSplits, device: torch.device) -> float:
    """Return the clean accuracy on validation images, an exact count."""
    return accuracy(result.model.to(device), data.validation, device)


if __name__ == "__main__":
    main()
