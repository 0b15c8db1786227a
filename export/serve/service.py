"""What HTTP and gRPC share: the models, who may ask, what is counted, and whether the server is stopping."""

from __future__ import annotations

import hmac
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .body import ClientGoneError
from .errors import ServeError, UnauthorizedError
from .logs import log
from .metrics import Metrics
from .models import Models

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .classifier import OnnxClassifier
    from .settings import Settings


@dataclass
class Call:
    """One request on its way to an answer."""

    protocol: str
    name: str
    started: float = field(default_factory=time.monotonic)
    status: str = ""
    error: str = ""


class Service:
    """The state of one server."""

    def __init__(self, classifiers: Mapping[str, OnnxClassifier], settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.models = Models(classifiers, settings, self.metrics)
        self.stopping = False
        self.accepted = self.answered = self.cancelled = 0
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

    def deadline(self, call: Call, allowed: float | None = None) -> float:
        """Return when the call must be answered, in seconds of ``time.monotonic``."""
        limit = self.settings.timeout
        return call.started + (limit if allowed is None else min(allowed, limit))

    @contextmanager
    def record(self, protocol: str, name: str) -> Iterator[Call]:
        """Count one request and log it; whoever handles it sets status and error of the call."""
        call = Call(protocol, name)
        self.accepted += 1
        self.metrics.open.inc()
        try:
            yield call
        except ClientGoneError:
            self.cancelled += 1
            self.metrics.cancelled.inc()
        else:
            self.answered += 1
        finally:
            seconds = time.monotonic() - call.started
            self.metrics.open.dec()
            if call.status:
                self.metrics.requests.labels(protocol, call.status).inc()
                self.metrics.seconds.labels(protocol).observe(seconds)
            if call.error or self.settings.log_requests:
                entries = {"protocol": protocol, "request": name[:200], "status": call.status}
                entries |= {"milliseconds": round(seconds * 1000, 3)}
                log("request", **entries, **({"error": call.error[:500]} if call.error else {}))

    def explain(self, error: Exception, call: Call) -> ServeError:
        """Return what the client is told; what nobody foresaw is logged in full and told in few words."""
        if isinstance(error, ServeError):
            known = error
        else:
            log("unforeseen error", level=logging.ERROR, exc_info=True, request=call.name[:200])
            known = ServeError("The server failed; its log says how.")
        call.error = str(known)
        return known
