"""Every exception that the package raises on purpose: what was given, what was expected, what to do."""

from __future__ import annotations


class GenafError(Exception):
    """Base of all errors of this package.

    Args:
        problem: What is wrong, with the offending value.
        expected: What would have been accepted.
        remedy: What the user can do about it.
    """

    def __init__(self, problem: str, *, expected: str = "", remedy: str = "") -> None:
        self.problem, self.expected, self.remedy = problem, expected, remedy
        parts = [problem]
        if expected:
            parts.append(f"Expected: {expected}.")
        if remedy:
            parts.append(f"To do: {remedy}.")
        super().__init__(" ".join(parts))


class ConfigError(GenafError):
    """A setting has a value that cannot work."""


class EncoderError(GenafError):
    """An encoder cannot be found, loaded or used."""


class DataError(GenafError):
    """A data set cannot be found, read or used."""


class AttackError(GenafError):
    """An attack was asked for something that it cannot do."""


class TrainingError(GenafError):
    """Training had to stop, or came to nothing: a loss or weight is no longer finite, or all images get one class."""


class OutputError(GenafError):
    """A result cannot be written, or a written one cannot be read."""


class ExportError(GenafError):
    """An exported model differs from the one that was hardened, or cannot be run."""


class HubError(GenafError):
    """A bundle cannot be published on the Hub or fetched from it."""


class RunStoppedError(GenafError):
    """A run was asked to end; it saved what it had done."""
