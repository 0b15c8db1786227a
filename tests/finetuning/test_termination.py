from __future__ import annotations

import os
import signal

import pytest

from genaf_sdk.errors import RunStoppedError
from genaf_sdk.finetuning.termination import Termination


def test_sigterm_ends_a_run_at_once_even_inside_a_library_that_wraps_every_exception() -> None:
    """As torch's ONNX exporter does."""
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunStoppedError, match="resume=True"), Termination().listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:
            raise ValueError("it failed") from error
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_wrapped_interruption_is_found_in_the_chain() -> None:
    with pytest.raises(RunStoppedError), Termination().listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise ValueError("it failed") from error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ZeroDivisionError), Termination().listening():
        _ = 1 / 0


def test_a_deferred_signal_is_only_noted() -> None:
    termination = Termination()
    with termination.listening(), termination.training():
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.asked
