"""SIGTERM: a training step that has begun is finished and saved before the run ends."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genaf_sdk.errors import RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class _Interruption(BaseException):
    """Raised wherever the program is; libraries that turn every ``Exception`` into one of their own let it pass."""


class Termination:
    """Whether somebody asked this process to end.

    While ``deferred``, the signal is only noted, and training loops look at ``asked`` between steps. At other times
    nothing would be lost, and the run ends at once. ``saves`` is whether the run has a folder, which it can go on from.
    """

    def __init__(self) -> None:
        self.asked, self.saves, self._trainings, self._turns = False, True, 0, threading.Lock()

    @property
    def deferred(self) -> bool:
        """Whether any training is under way."""
        return self._trainings > 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context that handles SIGTERM; outside the main thread, where Python allows no handler, it does nothing.

        Raises:
            RunStoppedError: SIGTERM came while nothing was deferred.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._handle)
        try:
            yield
        except BaseException as error:
            if _is_due_to_interruption(error):
                raise self.stopped() from error
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Context in which the signal is only noted, even after the training's last look at it; then it ends here.

        Raises:
            RunStoppedError: It was, and the training is complete.
        """
        with self._turns:
            self._trainings += 1
        try:
            yield
        finally:
            with self._turns:
                self._trainings -= 1
        if self.asked:
            raise self.stopped()

    def stopped(self) -> RunStoppedError:
        """Return the error that ends the run at somebody's request."""
        if self.saves:
            return RunStoppedError(
                "Stopped by SIGTERM; progress was saved.", remedy="go on with resume=True (--resume)"
            )
        return RunStoppedError("Stopped by SIGTERM; nothing was saved.", remedy="pass output_dir to be able to go on")

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signal module's interface
        self.asked = True
        if not self.deferred:
            raise _Interruption


def _is_due_to_interruption(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, _Interruption):
        error = error.__cause__ or error.__context__
    return error is not None
