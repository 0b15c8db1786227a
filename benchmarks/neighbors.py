"""What does a busy neighbor cost? A training step by threads, precision, and how idle threads wait.

    python benchmarks/neighbors.py

The step is that of a small convolutional network on 32 images; the neighbor computes without pause on one core. Every
cell is a process of its own, as threads wait as they were told when torch was loaded; rounds take turns, and the median
counts. A run that loses no more than its share takes at most twice the time on two cores, and as much processor time as
alone: threads that spin while they wait take more. Processor time tells that on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time

CELLS = list(itertools.product((1, 2), ("fp32", "bf16"), ("passive", "active"), (False, True)))
SECONDS = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cell", nargs=2, metavar=("THREADS", "PRECISION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        print(*milliseconds(int(arguments.cell[0]), arguments.cell[1]))
        return
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before the start", flush=True)
    found: dict[tuple[int, str, str, bool], list[tuple[float, ...]]] = {cell: [] for cell in CELLS}
    for _ in range(arguments.rounds):
        for cell in CELLS:
            found[cell].append(measured(*cell))
    print("| threads | precision | idle threads wait | alone, ms | beside a neighbor, ms | ratio | processor time |")
    print("| ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for threads, precision, policy in itertools.product((1, 2), ("fp32", "bf16"), ("passive", "active")):
        (alone, own), (beside, taken) = (
            map(statistics.median, zip(*found[threads, precision, policy, busy], strict=True)) for busy in (False, True)
        )
        times = f"{alone:.0f} | {beside:.0f} | {beside / alone:.1f} | {taken / own:.1f} times"
        print(f"| {threads} | {precision} | {policy} | {times} |")


def measured(threads: int, precision: str, policy: str, busy: bool) -> tuple[float, ...]:
    """Return the milliseconds of a step, wall and processor, in a process of its own, beside a neighbor if ``busy``."""
    neighbor = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        command = [sys.executable, __file__, "--cell", str(threads), precision]
        environment = {**os.environ, "OMP_WAIT_POLICY": policy}
        step = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
        return tuple(map(float, step.stdout.split()))
    finally:
        if neighbor is not None:
            neighbor.kill()
            neighbor.wait()


def milliseconds(threads: int, precision: str) -> tuple[float, float]:
    """Return the mean wall and processor time of a forward and a backward pass."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    layers = (nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU())
    network = nn.Sequential(*layers, nn.Conv2d(64, 128, 3, stride=2, padding=1)).to(memory_format=torch.channels_last)
    images = torch.rand(32, 3, 32, 32).to(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = network(images)
        outputs.float().square().mean().backward()

    for _ in range(3):
        step()
    started, processor, steps = time.monotonic(), time.process_time(), 0
    while time.monotonic() - started < SECONDS:
        step()
        steps += 1
    return (time.monotonic() - started) / steps * 1e3, (time.process_time() - processor) / steps * 1e3


if __name__ == "__main__":
    main()
