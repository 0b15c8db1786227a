"""Where does a training step go? Processor time by phase and by kind of operation, and pages that had to be cleared.

    python benchmarks/parts.py
    python benchmarks/parts.py --stage undefended --threads 2
    python benchmarks/parts.py --stage pgd-at --repeats 2

The stage is one of ``genaf demo``: bundled encoder, digits; or PGD-AT as ``price.py epochs`` runs it. Phases are timed
as they are; operations in further steps, each by itself, which costs time that no operation counts. "Main thread" is
the time of the one that hands work out: a step takes as long at least, however many threads help.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from itertools import chain, count, islice
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from timing import Record, begin, ceiling, finish, parser_of, processor_alone, table
from torch.utils._python_dispatch import TorchDispatchMode
from trainers import EPSILON, STEP

from genaf_sdk import HardenConfig, load_data, load_encoder
from genaf_sdk.engine import fitting as engine
from genaf_sdk.engine.accelerator import own_accelerator
from genaf_sdk.engine.fitting import Fitting
from genaf_sdk.engine.modules import synchronized_layers
from genaf_sdk.engine.run import Run
from genaf_sdk.engine.train import gradients_of
from genaf_sdk.engine.views import FeaturesAndLogits
from genaf_sdk.memory import reused_memory
from genaf_sdk.methods import PGD, PGDAT
from genaf_sdk.methods.lab import Lab
from genaf_sdk.preparation import new_classifier

if TYPE_CHECKING:
    from collections.abc import Callable

ENCODER = "bundled:simclr-cifar10"
KINDS = {
    "convolution_backward": "convolutions, back",
    "convolution": "convolutions, forth",
    "native_batch_norm_backward": "batch norms, back",
    "native_batch_norm": "batch norms, forth",
    "threshold_backward": "ReLU",
    "relu": "ReLU",
    "add": "sums (residuals, gradients, Adam)",
    "add_": "sums (residuals, gradients, Adam)",
}


class Clocks:
    """Seconds by name: of the whole process, and of the thread that asks."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``work``, whose time counts under ``name``."""

        def run(*arguments: Any, **options: Any) -> Any:
            process, thread = time.process_time(), time.thread_time()
            result = work(*arguments, **options)
            self.seconds[name][0] += time.process_time() - process
            self.seconds[name][1] += time.thread_time() - thread
            return result

        return run

    def rows(self, heading: str, steps: int) -> list[Record]:
        """Return a row for each name, the longest first, in milliseconds a step."""
        order = sorted(self.seconds.items(), key=lambda item: -item[1][0])
        return [
            {heading: name, "CPU ms": f"{1e3 * process / steps:.1f}", "main thread, ms": f"{1e3 * thread / steps:.1f}"}
            for name, (process, thread) in order
        ]


class Operations(TorchDispatchMode):
    """Takes the time of every operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clocks = Clocks()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        kind = KINDS.get(operation.overloadpacket.__name__, "all others")
        return self.clocks.timed(kind, operation)(*arguments, **(options or {}))


def main() -> None:
    parser = parser_of(__doc__, repeats=12, processor=True)
    parser.add_argument("--stage", choices=("stage 1", "undefended", "pgd-at"), default="stage 1")
    arguments = parser.parse_args()
    device = begin(arguments)
    print(f"a large matrix product: {ceiling(torch.float32, device, 'cpu') / 1e9:.0f} GFLOP/s a core", flush=True)
    data = load_data("digits", image_size=(32, 32), seed=arguments.seed)
    published, config = data.space.placed(load_encoder(ENCODER)), HardenConfig.preset("default")
    with processor_alone(), own_accelerator("auto") as accelerator, ExitStack() as contexts:
        run = Run(accelerator, arguments.seed, show_progress=False, machine=config.machine)
        model = data.space.placed(new_classifier(published, data, arguments.seed))
        lab = Lab(run, model, data)
        methods = {
            "stage 1": config.method,
            "undefended": config.standard_fine_tuning(),
            "pgd-at": PGDAT().with_(
                schedule={"batch_size": 128, "encoder_learning_rate": None},
                against=PGD(epsilon=EPSILON, step_size=STEP, steps=10),
            ),
        }
        stage = lab.stage(arguments.stage, methods[arguments.stage])
        contexts.enter_context(gradients_of(model, stage))
        layers = synchronized_layers(model, run.processes, sync_batch_norm=True)
        current = contexts.enter_context(layers)
        fitting = Fitting(run, FeaturesAndLogits(model), model, data, stage)
        batches = chain.from_iterable(fitting.batches() for _ in count())

        def steps() -> None:
            for batch in islice(batches, arguments.repeats):
                fitting.training_step(batch, current)

        steps()
        records = [*faults(steps, arguments.repeats)]
        print(table(records), flush=True)
        for heading, found in (("phase", phases(steps, fitting)), ("operations", operations(steps))):
            rows = found.rows(heading, arguments.repeats)
            print("\n" + table(rows), flush=True)
            records += rows
    finish(arguments, records)


def faults(steps: Callable[[], None], number: int) -> list[Record]:
    """Return time and page faults of a step, with memory given back after each and with memory that is kept."""
    rows = []
    for name, context in {"given back": nullcontext(), "kept": reused_memory()}.items():
        with context:
            steps()
            before, thread = resource.getrusage(resource.RUSAGE_SELF), time.thread_time()
            steps()
            after = resource.getrusage(resource.RUSAGE_SELF)
            rows.append(
                {
                    "memory of a step": name,
                    "user ms": f"{1e3 * (after.ru_utime - before.ru_utime) / number:.1f}",
                    "system ms": f"{1e3 * (after.ru_stime - before.ru_stime) / number:.1f}",
                    "main thread, ms": f"{1e3 * (time.thread_time() - thread) / number:.1f}",
                    "page faults": round((after.ru_minflt - before.ru_minflt) / number),
                    "waits": round((after.ru_nvcsw - before.ru_nvcsw) / number),
                }
            )
    return rows


def phases(steps: Callable[[], None], fitting: Fitting) -> Clocks:
    """Return the time of each phase of a step."""
    clocks = Clocks()
    views = clocks.timed("adversary", fitting.stage.views)
    with (
        reused_memory(),
        mock.patch.object(fitting, "stage", argparse.Namespace(**{**vars(fitting.stage), "views": views})),
        mock.patch.object(engine, "backward", clocks.timed("forth, loss and back", engine.backward)),
        mock.patch.object(engine, "augmented_batch", clocks.timed("augmentation", engine.augmented_batch)),
        mock.patch.object(fitting, "_descend", clocks.timed("optimizers and bank", fitting._descend)),
    ):
        clocks.timed("the whole step", steps)()
    return clocks


def operations(steps: Callable[[], None]) -> Clocks:
    """Return the time of each kind of operation."""
    with reused_memory(), Operations() as mode:
        steps()
    return mode.clocks


if __name__ == "__main__":
    main()
