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


def test_a_deferred_signal_is_only_noted() -> None:
    termination = Termination()
    with termination.listening(), termination.training():
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.asked
