"""``genaf serve`` and ``genaf bench-serve`` in the list of commands; their options are those of ``export.serve``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Serve:
    """Serve bundles by the Open Inference Protocol v2, over HTTP and gRPC, without torch."""


@dataclass(frozen=True)
class BenchServe:
    """Measure latency and images a second of a bundle by batch size, provider and precision."""
