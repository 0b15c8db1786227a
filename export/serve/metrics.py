"""What Prometheus reads."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "serve_requests", "Requests answered, by outcome", ["protocol", "status"], registry=registry
        )
        self.seconds = Histogram(
            "serve_request_seconds",
            "From a request's head to its answer",
            ["protocol"],
            buckets=SECONDS,
            registry=registry,
        )
        self.open = Gauge("serve_requests_open", "Requests accepted and not yet answered", registry=registry)
        self.cancelled = Counter("serve_requests_cancelled", "Requests whose client went away", registry=registry)
        self._batch = Histogram(
            "serve_batch_images",
            "Images of one run of the graph",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self._queue = Histogram(
            "serve_queue_seconds", "From a request's arrival to its run", ["model"], buckets=SECONDS, registry=registry
        )
        self._waiting = Gauge(
            "serve_waiting_images", "Images accepted and not yet answered", ["model"], registry=registry
        )

    @functools.cache  # noqa: B019  # one object a server, a handful of entries
    def of_answer(self, protocol: str, status: str) -> tuple[Counter, Histogram]:
        """Return what counts and times the answers of one kind."""
        return self.requests.labels(protocol, status), self.seconds.labels(protocol)

    def of_model(self, name: str, waiting: Callable[[], int]) -> Callable[[int, Sequence[float]], None]:
        """Return the function that a model's batcher reports each run to: images, and the requests' waiting times."""
        batch, queue = self._batch.labels(name), self._queue.labels(name)
        self._waiting.labels(name).set_function(waiting)

        def observe(images: int, waited: Sequence[float]) -> None:
            batch.observe(images)
            for seconds in waited:
                queue.observe(seconds)

        return observe

    def text(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self._registry)
