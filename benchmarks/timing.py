"""What the timing benchmarks share: options, runs in turn, the machine's ceiling, peak memory, tables, records."""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from genaf_sdk._version import __version__
from genaf_sdk.precision import has_bf16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

Record = dict[str, Any]
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def parser_of(
    description: str | None, *, repeats: int, processor: bool = False, records: bool = True
) -> argparse.ArgumentParser:
    """Return a parser of the options that benchmarks share.

    Args:
        description: The docstring of the benchmark.
        repeats: Default of ``--repeats``.
        processor: Whether processor seconds are all it measures: of one thread unless told otherwise, on no GPU.
        records: Whether it writes the file that ``--json`` names.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if processor:
        parser.set_defaults(device="cpu", clock="cpu")
    else:
        parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
        parser.add_argument(
            "--clock", choices=list(CLOCKS), default="wall", help="cpu: of the processor, for busy machines"
        )
    parser.add_argument("--threads", type=int, default=1 if processor else 2, help="of torch, on the CPU")
    parser.add_argument("--repeats", type=int, default=repeats, help="runs of each candidate, in turn")
    parser.add_argument("--seed", type=int, default=0)
    if records:
        parser.add_argument("--json", type=Path, help="file to write the records to")
    return parser


@contextmanager
def processor_alone() -> Iterator[None]:
    """Context: what chooses its device by itself, as training does, takes the processor although there is a GPU."""
    with mock.patch.dict(os.environ, ACCELERATE_USE_CPU="true"):
        yield


def begin(arguments: argparse.Namespace) -> torch.device:
    """Set threads and seed, say where this runs, and return the device."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    print(" · ".join(str(value) for value in machine(arguments).values()), flush=True)
    return torch.device(arguments.device)


def machine(arguments: argparse.Namespace) -> Record:
    """Return what a figure depends on beside the code."""
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "device": name,
        "threads": f"{arguments.threads} threads, {arguments.clock} clock",
        "bf16": "native bf16" if has_bf16(device) else "no native bf16",
        "torch": f"torch {torch.__version__}",
        "genaf_sdk": f"genaf-sdk {__version__}",
        "seed": f"seed {arguments.seed}",
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def interleaved(
    candidates: dict[str, Callable[[], object]],
    repeats: int,
    device: torch.device,
    *,
    clock: str = "wall",
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Run all candidates in turn, ``repeats`` times after one round that does not count; return each run's seconds.

    In turn, so that what else the machine does falls on all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats + warm_up):
        for name, candidate in candidates.items():
            synchronize(device)
            started = CLOCKS[clock]()
            candidate()
            synchronize(device)
            seconds[name].append(CLOCKS[clock]() - started)
    return {name: values[warm_up:] for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def spread(values: Sequence[float]) -> str:
    """Return median and range as text."""
    return f"{median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def forward_flops(model: Callable[[torch.Tensor], object], pixels: torch.Tensor) -> int:
    """Return the floating-point operations of the convolutions and matrix products in one forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(pixels)
    return int(counter.get_total_flops())


def ceiling(dtype: torch.dtype, device: torch.device, clock: str = "wall") -> float:
    """Return the FLOP/s of the fastest of several large square matrix products: what this machine can do now."""
    size = 8192 if device.type == "cuda" else 1536
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = interleaved({"product": lambda: left @ right}, 7, device, clock=clock)["product"]
    return 2 * size**3 / min(seconds)


def in_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context of ``fp32`` or ``bf16``."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def peak_memory(target: Callable[..., None], *arguments: object, device: torch.device) -> float:
    """Return the MiB that ``target(*arguments)`` needs at its peak beyond what was there before.

    On the CPU it is run in a fresh process, which calls ``remember()`` once its inputs are there; on CUDA, in this one.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        target(*arguments, lambda: None)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(sender, torch.get_num_threads(), target, *arguments))
    process.start()
    sender.close()
    grown = receiver.recv()
    process.join()
    return float(grown)


def _measured(sender: Any, threads: int, target: Callable[..., None], *arguments: object) -> None:
    torch.set_num_threads(threads)
    before = 0.0

    def remember() -> None:
        nonlocal before
        before = new_peak()

    target(*arguments, remember)
    sender.send(peak_resident() - before)


def new_peak() -> float:
    """Have Linux count this process's peak from now on, and return the MiB that are resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_resident()


def peak_resident() -> float:
    """Return the peak of this process's resident memory in MiB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def peak_live(function: Callable[[], object]) -> float:
    """Return the MiB of tensors that are alive at the peak of ``function()`` on the CPU, beyond those of before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as recorded:
        function()
    results: Any = recorded.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events)) / 2**20


def table(rows: Sequence[Record]) -> str:
    """Return rows of the same keys as a Markdown table."""
    heads = list(rows[0])
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    lines += [f"| {' | '.join(str(row[head]) for head in heads)} |" for row in rows]
    return "\n".join(lines)


def finish(arguments: argparse.Namespace, records: Sequence[Record], **facts: object) -> None:
    """Write the records, with machine and options, where ``--json`` says."""
    if arguments.json is not None:
        options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
        content = {"machine": machine(arguments), "options": options, **facts, "records": list(records)}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")
