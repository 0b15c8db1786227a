"""What HTTP and gRPC share: the models, who may ask, what is counted, and whether the server is stopping."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .body import ClientGoneError
from .errors import DeadlineError, ServeError, UnauthorizedError
from .logs import log
from .metrics import Metrics
from .models import Models

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from .classifier import OnnxClassifier
    from .settings import Settings


@dataclass
class Call:
    """One request on its way to an answer; ``deadline`` is in seconds of ``time.monotonic``."""

    name: str
    deadline: float
    status: str = ""
    error: str = ""

    def allow(self, seconds: float | None) -> None:
        """Bring the deadline forward to so many seconds from now, if that is sooner; None changes nothing."""
        if seconds is not None:
            self.deadline = min(self.deadline, time.monotonic() + seconds)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """End what is inside when the deadline passes.

        Raises:
            DeadlineError: It did.
        """
        try:
            async with asyncio.timeout(self.deadline - time.monotonic()):
                yield
        except TimeoutError as error:
            raise DeadlineError(
                "There was no answer before the deadline.", remedy="allow more time, or retry later"
            ) from error


class Service:
    """The state of one server."""

    def __init__(self, classifiers: Mapping[str, OnnxClassifier], settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.models = Models(classifiers, settings, self.metrics)
        self.stopping = False
        self.accepted = self.answered = self.cancelled = 0
        self.metrics.open.set_function(lambda: self.accepted - self.answered - self.cancelled)
        self._key = settings.api_key.encode()

    def authorize(self, authorization: str, key: str) -> None:
        """Let a caller pass who knows the API key, where there is one.

        Args:
            authorization: Value of the header Authorization: ``Bearer KEY``.
            key: Value of the header X-API-Key, as good as the other.

        Raises:
            UnauthorizedError: Neither is right.
        """
        if not self._key:
            return
        given = key or authorization.removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self._key):
            raise UnauthorizedError(
                "The API key is missing or wrong.", expected="the header Authorization: Bearer KEY, or X-API-Key: KEY"
            )

    @contextmanager
    def record(self, protocol: str, name: str) -> Iterator[Call]:
        """Count one request and log it; whoever handles it sets status and error of the call."""
        started = time.monotonic()
        call = Call(name, started + self.settings.timeout)
        self.accepted += 1
        try:
            yield call
        except (ClientGoneError, asyncio.CancelledError) as error:
            self.cancelled += 1
            self.metrics.cancelled.inc()
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            self.answered += 1
        finally:
            seconds = time.monotonic() - started
            if call.status:
                counter, histogram = self.metrics.of_answer(protocol, call.status)
                counter.inc()
                histogram.observe(seconds)
            if call.error or self.settings.log_requests:
                log(
                    "request",
                    protocol=protocol,
                    request=name[:200],
                    status=call.status,
                    milliseconds=round(seconds * 1000, 3),
                    **({"error": call.error[:500]} if call.error else {}),
                )

    def explain(self, error: Exception, call: Call) -> ServeError:
        """Return what the client is told; what nobody foresaw is logged in full and told in few words."""
        if isinstance(error, ServeError):
            known = error
        else:
            log("unforeseen error", level=logging.ERROR, request=call.name[:200])
            known = ServeError("The server failed; its log says how.")
        call.error = str(known)
        return known
