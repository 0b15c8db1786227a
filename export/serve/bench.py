"""``python -m serve.bench``: latency and throughput per batch size, provider and precision, without any server."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .bundle import precisions
from .classifier import OnnxClassifier
from .errors import ProviderError, ServeError
from .providers import PROVIDERS, TF32_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

WARM_UP = 3


@dataclass(frozen=True)
class Measurement:
    """How fast one configuration is. Times are milliseconds a batch; ``images_per_second`` is at this batch size."""

    provider: str
    precision: str
    batch: int
    runs: int
    p50: float
    p90: float
    p99: float
    images_per_second: float


def bench(
    source: str | Path,
    *,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32),
    providers: Sequence[str] = ("auto",),
    only: Sequence[str] = (),
    seconds: float = 2.0,
    threads: int | None = None,
    binding: bool | None = None,
) -> Iterator[Measurement]:
    """Measure and yield one configuration after another.

    Args:
        source: A bundle's folder, or one ONNX file.
        batches: Batch sizes.
        providers: As for ``OnnxClassifier``; one that cannot be loaded is an error.
        only: Precisions; empty is all that the bundle has.
        seconds: How long each configuration is measured, after three runs to warm up.
        threads: Threads of one operator on the CPU; None is one a core.
        binding: As for ``OnnxClassifier``.

    Raises:
        ServeError: As for ``OnnxClassifier``, or a batch size below 1.
    """
    if min(batches, default=0) < 1:
        raise ServeError(f"The batch sizes are {tuple(batches)}.", expected="at least one, each at least 1")
    for precision in only or (precisions(source) if Path(source).is_dir() else ("fp32",)):
        for provider in providers:
            classifier = OnnxClassifier(
                source,
                precision=precision,
                provider=provider,
                threads=threads,
                max_batch=max(batches),
                buckets=(),
                binding=binding,
            )
            for batch in batches:
                yield _measure(classifier, batch, seconds)


def _measure(classifier: OnnxClassifier, batch: int, seconds: float) -> Measurement:
    pixels = _noise(classifier, batch)
    for _ in range(WARM_UP):
        classifier.run(pixels)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter()
        classifier.run(pixels)
        times.append(time.perf_counter() - began)
    p50, p90, p99 = (round(1000 * float(value), 3) for value in np.quantile(times, (0.5, 0.9, 0.99)))
    rate = round(batch * len(times) / sum(times), 1)
    return Measurement(classifier.provider, classifier.bundle.precision, batch, len(times), p50, p90, p99, rate)


def _noise(classifier: OnnxClassifier, batch: int) -> NDArray[np.uint8] | NDArray[np.float32]:
    generator, shape = np.random.default_rng(0), (batch, *classifier.input_shape)
    if classifier.takes_bytes:
        return generator.integers(0, 256, shape, np.uint8)
    return generator.random(shape, np.float32)


def table(measurements: Sequence[Measurement]) -> str:
    """Return the measurements as text, one a line under a head."""
    rows = [list(asdict(entry)) for entry in measurements[:1]] + [
        [str(value) for value in asdict(entry).values()] for entry in measurements
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


OWN_BUNDLE = Path(__file__).resolve().parent.parent


def main(
    arguments: list[str] | None = None,
    *,
    program: str = "python -m serve.bench",
    bundle: Path | None = OWN_BUNDLE,
) -> int:
    """Print a table; return the exit status. Providers that do not load are named on stderr."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Latency in milliseconds and images a second per batch size, provider and precision, without any server.",
    )
    parser.add_argument("bundle", nargs=None if bundle is None else "?", default=bundle, help="folder or .onnx file")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), choices=("auto", *PROVIDERS))
    parser.add_argument("--precisions", nargs="+", default=[])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--binding", action=argparse.BooleanOptionalAction, help="IO binding; only on GPUs if not said")
    parser.add_argument("--json", action="store_true", help="print a list of records instead of the table")
    options = parser.parse_args(arguments)
    os.environ.setdefault(TF32_VARIABLE, "0")
    found: list[Measurement] = []
    missing: list[ProviderError] = []
    try:
        for provider in options.providers:
            try:
                found += bench(
                    options.bundle,
                    batches=options.batches,
                    providers=(provider,),
                    only=options.precisions,
                    seconds=options.seconds,
                    threads=options.threads,
                    binding=options.binding,
                )
            except ProviderError as error:
                missing.append(error)
    except ServeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for reason in missing:
        sys.stderr.write(f"{reason}\n")
    if found:
        sys.stdout.write((json.dumps([asdict(entry) for entry in found]) if options.json else table(found)) + "\n")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
