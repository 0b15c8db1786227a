from __future__ import annotations

import os
import signal

import pytest

from genaf_sdk.engine.termination import Termination
from genaf_sdk.errors import RunStoppedError


@pytest.mark.parametrize("caught", [Exception, BaseException])
def test_sigterm_ends_a_run_at_once_even_inside_a_library_that_wraps_every_exception(
    caught: type[BaseException],
) -> None:
    """As torch's ONNX exporter does."""

    def library() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except caught as error:
            raise ValueError("it failed") from error

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStoppedError, match="resume=True"), Termination().listening():
        library()
    assert signal.getsignal(signal.SIGTERM) == handler


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), Termination().listening():
        _ = 1 / 0


def test_a_deferred_signal_is_only_noted_until_the_training_is_over() -> None:
    """It may come after the training's last look at it, and must not be lost then."""
    termination, seen = Termination(), list[bool]()

    def last_steps() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(termination.asked)

    with pytest.raises(RunStoppedError, match="resume=True"), termination.listening(), termination.training():
        last_steps()
    assert seen == [True]


def test_a_training_that_fails_after_the_signal_says_why() -> None:
    def fail() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        _ = 1 / 0

    termination = Termination()
    with pytest.raises(ZeroDivisionError), termination.listening(), termination.training():
        fail()
