"""Every setting of a server: frozen, and checked when made."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from .errors import SettingsError
from .images import MAX_PIXELS

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """How to serve. Sizes are bytes, times are seconds."""

    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 is every interface."""
    http_port: int = 8000
    """0 takes a free one."""
    grpc_port: int | None = 8001
    """0 takes a free one, None serves no gRPC."""
    max_batch: int = 32
    """Most images of one run, and of one request."""
    max_delay: float = 0.0
    """How long the first image of a batch waits for others. With 0, a batch is what came while the last one ran."""
    max_queue: int = 256
    """Most images that wait for one model; further ones get 503."""
    max_body: int = 64 * MIB
    """Largest request."""
    max_memory: int = 1024 * MIB
    """Most bytes that the bodies of all open HTTP requests take together; further ones get 503."""
    max_connections: int = 1024
    max_pixels: int = MAX_PIXELS
    """Largest width times height of an image file."""
    timeout: float = 30.0
    """Deadline of a request, from its first byte to its answer."""
    drain: float = 1.0
    """How long a stopping server still takes requests, while it says that it is not ready and closes each connection
    after its answer. Behind a load balancer: as long as that takes to notice."""
    api_key: str = field(default="", repr=False)
    """Empty: none is asked for."""
    tls_certificate: Path | None = None
    """PEM file; with ``tls_key``, both HTTP and gRPC are encrypted."""
    tls_key: Path | None = None
    log_requests: bool = False
    """One line a request, rather than only for those that fail."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise SettingsError(f"{entry.name} is {value!r}.", expected="a number of at least 0")
        for name in ("max_batch", "max_queue", "max_body", "max_memory", "max_connections", "max_pixels", "timeout"):
            if getattr(self, name) == 0:
                raise SettingsError(f"{name} is 0.", expected="more than 0")
        if self.max_queue < self.max_batch:
            raise SettingsError(f"max_queue is {self.max_queue}.", expected=f"at least max_batch, {self.max_batch}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SettingsError("One of tls_certificate and tls_key is missing.", expected="both or neither")
        for path in (self.tls_certificate, self.tls_key):
            if path is not None and not path.is_file():
                raise SettingsError(f"There is no file {path}.", expected="a PEM file")
        if self.api_key and not self.api_key.isascii():
            raise SettingsError("The API key holds characters beyond ASCII.", expected="ASCII: it travels in a header")
