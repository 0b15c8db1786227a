"""What the default evaluation costs on saved models, and what a core makes of the encoder's arithmetic.

    genaf demo --output-dir demo-output
    python benchmarks/evaluation.py --model demo-output --data digits --encoder bundled:simclr-cifar10 --threads 2
    python benchmarks/evaluation.py --arithmetic bundled:simclr-cifar10 --size 32

With one thread every attack has the processor seconds between its announcement and the next. With more, attacks run
side by side, and seconds are what each took by the clock.
"""

from __future__ import annotations

import argparse
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from genaf_sdk import HardenedModel, evaluate, load_data
from genaf_sdk.encoders import load_encoder
from genaf_sdk.models.folding import folded_batch_norms
from genaf_sdk.models.parts import in_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

BATCH, ROUNDS, SIDE = 128, 5, 2048


@dataclass
class Meter:
    """Processor seconds from one announcement to the next."""

    name: str = "before the first"
    last: float = field(default_factory=time.process_time)
    rows: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        """Note what was announced before, and what it took."""
        now = time.process_time()
        self.rows.append((self.name, now - self.last))
        self.name, self.last = text, now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a hardened model")
    parser.add_argument("--baseline", help="folder of another model, to be attacked beside it")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--encoder", help="id of the published encoder")
    parser.add_argument("--attacks", nargs="+", help="these instead of the default ones")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arithmetic", help="id of an encoder: measure its arithmetic alone")
    parser.add_argument("--size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.arithmetic is None and arguments.model is None:
        parser.error("name a model (--model), or an encoder whose arithmetic is measured (--arithmetic)")
    if arguments.arithmetic:
        arithmetic(arguments.arithmetic, arguments.size)
    else:
        measured(arguments)


def measured(arguments: argparse.Namespace) -> None:
    """Print every row of the default evaluation with what it took, and the sums."""
    model = HardenedModel.from_pretrained(arguments.model).eval()
    baseline = None if arguments.baseline is None else HardenedModel.from_pretrained(arguments.baseline).eval()
    data = load_data(arguments.data, image_size=model.image_size, seed=arguments.seed)
    published = None if arguments.encoder is None else load_encoder(arguments.encoder, image_size=model.image_size)
    meter, started, clock = Meter(), time.process_time(), time.monotonic()
    options = {"attacks": arguments.attacks, "seed": arguments.seed, "on_attack": meter}
    report = evaluate(model, data, encoder=published, baseline=baseline, **options)
    meter("end")
    wall, processor = time.monotonic() - clock, time.process_time() - started
    for score in report.scores:
        row = f"{score.model:10} {score.column:10} {score.attack:16} {score.accuracy:6.1%} ({score.n})"
        print(f"{row} {score.seconds:7.1f} s")
    if arguments.threads == 1:
        for name, seconds in meter.rows:
            print(f"{name:50} {seconds:7.1f} processor s")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{wall:.0f} s by the clock, {processor:.0f} processor s, {arguments.threads} threads, load {load}")
    for check in report.checks:
        print("passed" if check.passed else "FAILED", check.name)


def arithmetic(encoder_id: str, size: int) -> None:
    """Print how many operations a second an encoder reaches, forth and back to the pixels, and a matrix product."""
    encoder = load_encoder(encoder_id, image_size=(size, size)).eval().requires_grad_(False)
    encoder = encoder.to(memory_format=torch.channels_last)
    images = torch.rand(BATCH, 3, size, size).contiguous(memory_format=torch.channels_last)

    def step(function: Callable[[Tensor], Tensor]) -> None:
        delta = torch.zeros(3, size, size, requires_grad=True)
        function((images + delta).clamp(0, 1)).sum().backward()

    with FlopCounterMode(display=False) as counter:
        step(encoder)
    operations = counter.get_total_flops()
    one, other = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    print(f"{operations / BATCH / 1e6:.0f} million operations an image")
    print(f"matrix product {SIDE} x {SIDE}: {2 * SIDE**3 / best(lambda: one @ other) / 1e9:.0f} GFLOP/s")
    plain = best(lambda: step(encoder))
    print(f"plain: {operations / plain / 1e9:.0f} GFLOP/s, {plain / BATCH * 1e3:.2f} ms an image")
    for name, context in (("parts", nullcontext()), ("parts, batch norms folded", folded_batch_norms(encoder, images))):
        with context:
            seconds = best(lambda: step(lambda shown: in_parts(encoder, shown)))
        print(f"{name}: {operations / seconds / 1e9:.0f} GFLOP/s, {seconds / BATCH * 1e3:.2f} ms an image")


def best(work: Callable[[], object]) -> float:
    """Return the processor seconds of the fastest of several rounds."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
