"""Every exception that serving raises on purpose: what was given, what was expected, what to do."""

from __future__ import annotations

from typing import ClassVar


class ServeError(Exception):
    """Base of all errors of this package.

    Args:
        problem: What is wrong, with the offending value.
        expected: What would have been accepted.
        remedy: What the user can do about it.
    """

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    """Name of the grpc.StatusCode."""

    def __init__(self, problem: str, *, expected: str = "", remedy: str = "") -> None:
        self.problem, self.expected, self.remedy = problem, expected, remedy
        parts = [problem]
        if expected:
            parts.append(f"Expected: {expected}.")
        if remedy:
            parts.append(f"To do: {remedy}.")
        super().__init__(" ".join(parts))


class SettingsError(ServeError):
    """A setting has a value that cannot work."""


class BundleError(ServeError):
    """A bundle is missing, damaged, unsafe, or newer than this code."""


class ProviderError(ServeError):
    """onnxruntime cannot run the model where it was asked to."""


class ModelError(ServeError):
    """The model failed while it ran."""


class InputError(ServeError):
    """A request, or the images in it, cannot be used."""

    http_status, grpc_status = 400, "INVALID_ARGUMENT"


class UnauthorizedError(ServeError):
    """The API key is missing or wrong."""

    http_status, grpc_status = 401, "UNAUTHENTICATED"


class UnknownModelError(ServeError):
    """There is no such model, or no such version of it."""

    http_status, grpc_status = 404, "NOT_FOUND"


class TooLargeError(ServeError):
    """A request is larger than the server takes."""

    http_status, grpc_status = 413, "RESOURCE_EXHAUSTED"


class UnsupportedError(ServeError):
    """The body is encoded in a way that the server does not read."""

    http_status, grpc_status = 415, "UNIMPLEMENTED"


class OverloadedError(ServeError):
    """Too much is waiting, or the server is stopping; the same request may succeed later or elsewhere."""

    http_status, grpc_status = 503, "UNAVAILABLE"


class DeadlineError(ServeError):
    """The answer would have come after the deadline."""

    http_status, grpc_status = 504, "DEADLINE_EXCEEDED"
