"""Where does a whole training go? Processor seconds of its parts, `default` beside tuned fine-tuning.

    python benchmarks/breakdown.py
    python benchmarks/breakdown.py --encoders FOLDER --data FOLDER --only mobilenet_v1_x0.25 --sets trash --size 128

Every training has one epoch, of the batch size that its preset's epochs give; what comes once an epoch is multiplied by
these. Range test and stage 2, or its probe alone, with their guard come once. Encoders and images are those of
``benchmarks/robustness.py``. Evaluation, export and the reading of images are left out.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from robustness import ENCODERS, load
from timing import Record, begin, finish, parser_of, processor_alone, table

from genaf_sdk import HardenConfig
from genaf_sdk.engine import fitting, train
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.run import Run
from genaf_sdk.memory import reused_memory
from genaf_sdk.methods import adaptability, mixture
from genaf_sdk.methods.guard import Guard
from genaf_sdk.methods.lab import Lab
from genaf_sdk.preparation import new_classifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from genaf_sdk import DataSplits
    from genaf_sdk.models.encoder import PixelEncoder

PARTS: dict[str, list[tuple[Any, str]]] = {
    "augmentation": [(fitting, "augmented_batch")],
    "adversary": [(mixture.MixtureAdversary, "perturb")],
    "forth, loss and back": [(fitting, "backward")],
    "optimizers and bank": [(fitting.Fitting, "_descend")],
    "validation": [(fitting, "accuracy")],
    "range test": [(train, "range_test")],
    "guard": [(Guard, "clean"), (Guard, "universal"), (Guard, "sample_wise")],
    "sensitivity": [(adaptability, "first_order_rises"), (adaptability, "_sensitivity")],
}
"""What is timed, and where it is found. Within the range test nothing else counts."""
ONCE = ("range test", "guard", "sensitivity")
REPEATED = "stage 1"


class Stopwatch:
    """Processor seconds by stage and part; of parts within parts, the outer one counts."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.stage, self._running = "", False

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``work``, whose time counts under ``part``."""

        def run(*arguments: Any, **options: Any) -> Any:
            if self._running:
                return work(*arguments, **options)
            self._running, started = True, time.process_time()
            try:
                return work(*arguments, **options)
            finally:
                self.seconds[self.stage, part] += time.process_time() - started
                self._running = False

        return run


def measured(preset: str, published: PixelEncoder, data: DataSplits, seed: int, precision: str) -> dict[str, float]:
    """Train for an epoch, and return the seconds of each part of the whole training."""
    config = HardenConfig.preset(preset)
    schedule = config.method.schedule
    batch = schedule.batch(len(data.train))
    short = config.method.with_(schedule={"epochs": 1, "batch_size": batch})
    watch = Stopwatch()
    found: dict[str, float] = defaultdict(float)
    with processor_alone(), own_accelerator(precision) as engine, reused_memory(), ExitStack() as contexts:
        for part, places in PARTS.items():
            for owner, name in places:
                work = watch.timed(part, getattr(owner, name))
                contexts.enter_context(mock.patch.object(owner, name, work))
        run = Run(engine, seed, show_progress=False, machine=config.machine)
        model = data.space.placed(new_classifier(published, data, seed))
        for stage in short.stages(Lab(run, model, data)):
            watch.stage = stage.name
            train.train(run, model, data, stage)
    for (name, part), seconds in watch.seconds.items():
        if part in ONCE:
            found[part] += seconds
        elif name == REPEATED:
            found[part] += seconds * schedule.epochs
        else:  # the probe, and stage 2 where that follows
            found[name] += seconds
    found["all"] = sum(found.values())
    return dict(found)


def main() -> None:
    parser = parser_of(__doc__, repeats=1, processor=True)
    parser.add_argument("--encoders", type=Path, default=Path())
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--only", choices=list(ENCODERS), default="bundled")
    parser.add_argument("--sets", default="digits", help="one set of images")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--presets", nargs="+", default=["fine-tuning", "default"])
    arguments = parser.parse_args()
    begin(arguments)
    sys.path.insert(0, str(arguments.encoders.resolve()))
    published = ENCODERS[arguments.only](arguments.encoders, (arguments.size, arguments.size))
    data = load(arguments.sets, arguments.data, published, arguments.seed)
    published = data.space.placed(published)
    print(f"{len(data.train)} training and {len(data.validation)} validation images", flush=True)
    options = (published, data, arguments.seed, arguments.precision)
    found = {preset: measured(preset, *options) for preset in arguments.presets}
    records: list[Record] = [
        {"part": part} | {preset: f"{seconds.get(part, 0.0):.1f}" for preset, seconds in found.items()}
        for part in dict.fromkeys(part for seconds in found.values() for part in seconds)
    ]
    print(table(records))
    finish(arguments, records)


if __name__ == "__main__":
    main()
