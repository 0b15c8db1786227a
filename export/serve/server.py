"""Starting both servers, and stopping them without losing a request that was accepted."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import grpc
import uvicorn

from .errors import SettingsError
from .grpc_app import make_server
from .http_app import HttpApp
from .logs import log
from .service import Service

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    from .classifier import OnnxClassifier
    from .settings import Settings


class _HttpServer(uvicorn.Server):
    """uvicorn, except that a signal starts our own way of stopping; a second Ctrl-C ends it at once."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], object]) -> None:
        super().__init__(config)
        self._stop, self._asked = stop, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit = self._asked and sig == signal.SIGINT
        self._asked = True
        self._stop()


async def serve(
    classifiers: Mapping[str, OnnxClassifier], settings: Settings, *, stop: asyncio.Event | None = None
) -> None:
    """Serve until SIGTERM, SIGINT or ``stop``.

    Then: not ready, but still answering, for ``settings.drain`` seconds; no more connections; every accepted request is
    answered; the end.

    Args:
        classifiers: The models by name, warmed up.
        settings: How.
        stop: Ends the server when it is set.

    Raises:
        SettingsError: A port is taken, or the certificate cannot be read.
    """
    sys.setswitchinterval(0.001)  # the batcher's thread must not wait 5 ms for its turn
    service = Service(classifiers, settings)
    try:
        with _listen(settings) as listener:
            await _serve(service, listener, stop or asyncio.Event())
    finally:
        await asyncio.to_thread(service.models.close)
    log("stopped", accepted=service.accepted, answered=service.answered, cancelled=service.cancelled)


async def _serve(service: Service, listener: socket.socket, stop: asyncio.Event) -> None:
    settings, loop = service.settings, asyncio.get_running_loop()
    http = _HttpServer(_http_config(service), lambda: loop.call_soon_threadsafe(stop.set))
    rpc, grpc_port = await _start_grpc(service)
    running = asyncio.create_task(http.serve(sockets=[listener]))
    while not http.started and not running.done():
        await asyncio.sleep(0.01)
    ports = {"http_port": listener.getsockname()[1], "grpc_port": grpc_port}
    log("ready", host=settings.host, **ports, models=service.models.names)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait([running, stopped], return_when=asyncio.FIRST_COMPLETED)
    service.stopping = True
    log("stopping", drain=settings.drain)
    await asyncio.wait([running], timeout=settings.drain)
    http.should_exit = True
    await asyncio.gather(running, *([rpc.stop(settings.timeout)] if rpc else []))
    stopped.cancel()


def run(classifiers: Mapping[str, OnnxClassifier], settings: Settings) -> None:
    """Serve until a signal says stop; the blocking form of ``serve``, on the fastest event loop that is installed."""
    factory = uvicorn.Config(lambda: None, log_config=None).get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(classifiers, settings))


def _http_config(service: Service) -> uvicorn.Config:
    settings = service.settings
    config = uvicorn.Config(
        HttpApp(service),
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.timeout) + 1,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"The TLS certificate or key cannot be used: {error}.", expected="PEM files") from error
    return config


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.http_port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise SettingsError(
            f"Cannot listen on {settings.host}:{settings.http_port}: {error}.", remedy="choose another --http-port"
        ) from error
    return listener


async def _start_grpc(service: Service) -> tuple[Any, int | None]:
    settings = service.settings
    if settings.grpc_port is None:
        return None, None
    server = make_server(service)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.grpc_port}"
    try:
        if settings.tls_certificate and settings.tls_key:
            pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise SettingsError(f"Cannot listen on {address}: {error}.", remedy="choose another --grpc-port") from error
    await server.start()
    return server, port
