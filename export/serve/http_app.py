"""The HTTP side: Open Inference Protocol v2, image files, metrics and a page to try it on. An ASGI application."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from . import protocol
from .body import Bodies, ClientGoneError
from .errors import InputError, OverloadedError, ServeError
from .infer import InferEndpoint, declared_length
from .models import VERSION

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from .service import Call, Service

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Any]]
    Send = Callable[[Any], Awaitable[None]]

OPEN_PATHS = ("/", "/v2/health/live", "/v2/health/ready")
"""Answered without an API key: probes have none, and the page asks for it."""
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}


class HttpApp:
    """An ASGI application over a service; Ray Serve and other hosts can mount it as it is."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._bodies = Bodies(service.settings.max_body, service.settings.max_memory)
        self._page = Path(__file__).with_name("page.html").read_bytes()
        versions = ("/v2/models/{name}", "/v2/models/{name}/versions/{version}")
        infer = InferEndpoint(service, self._bodies)
        routes = [Route(f"{prefix}/infer", infer, methods=["POST"]) for prefix in versions]  # first: the busiest
        for prefix in versions:
            routes += [
                Route(prefix, self._model_metadata),
                Route(f"{prefix}/ready", self._model_ready),
                Route(f"{prefix}/labels", self._labels),
                Route(f"{prefix}/classify", self._classify, methods=["POST"]),
            ]
        routes += [
            Route("/", self._show_page),
            Route("/metrics", self._show_metrics),
            Route("/classify", self._classify, methods=["POST"]),
            Route("/v2", self._server_metadata),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
        ]
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: who asks, what is counted, and what every answer carries."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)  # lifespan
            return
        started = False
        with self._service.record("http", f"{scope['method']} {scope['path']}") as call:

            async def send_checked(message: Any) -> None:
                nonlocal started
                if message["type"] == "http.response.start":
                    started = True
                    call.status = str(message["status"])
                    message["headers"].append((b"x-content-type-options", b"nosniff"))
                    if self._service.stopping:
                        message["headers"].append((b"connection", b"close"))
                await send(message)

            try:
                scope["call"], scope["app"] = call, self
                self._authorize(scope)
                await self._router(scope, receive, send_checked)
            except ClientGoneError:
                raise
            except Exception as error:
                if started:  # half an answer is out: the connection must break
                    raise
                await _refusal(self._service, error, call)(scope, receive, send_checked)

    def _authorize(self, scope: Scope) -> None:
        if self._service.settings.api_key and scope["path"] not in OPEN_PATHS:
            headers = Headers(scope=scope)
            self._service.authorize(headers.get("authorization", ""), headers.get("x-api-key", ""))

    async def _classify(self, request: Request) -> Response:
        model = self._model(request) if "name" in request.path_params else self._service.models.default
        top = request.query_params.get("top", "5")
        if not top.isdecimal() or not 0 < len(top) < 5 or int(top) == 0:
            raise InputError(f"top is {top[:40]!r}.", expected="a whole number from 1")
        call = request.scope["call"]
        async with call.in_time():
            body = await self._bodies.read(request.receive, declared_length(request.headers))
            try:
                return _json(await model.classify(body, int(top), call.deadline))
            finally:
                self._bodies.release(body)

    def _model(self, request: Request) -> Any:
        return self._service.models.get(request.path_params["name"], request.path_params.get("version", ""))

    async def _show_page(self, request: Request) -> Response:
        return Response(self._page, headers=PAGE_HEADERS, media_type="text/html")

    async def _show_metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def _server_metadata(self, request: Request) -> Response:
        return _json(protocol.SERVER)

    async def _live(self, request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        return Response(status_code=503 if self._service.stopping else 200)

    async def _index(self, request: Request) -> Response:
        names = self._service.models.names
        return _json([{"name": name, "version": VERSION, "state": "READY"} for name in names])

    async def _model_metadata(self, request: Request) -> Response:
        return _json(self._model(request).metadata)

    async def _model_ready(self, request: Request) -> Response:
        self._model(request)
        return await self._ready(request)

    async def _labels(self, request: Request) -> Response:
        return _json(list(self._model(request).classifier.class_names))


def _json(content: Any) -> Response:
    return Response(json.dumps(content, allow_nan=False).encode(), media_type="application/json")


def _refusal(service: Service, error: Exception, call: Call) -> Response:
    if isinstance(error, HTTPException):  # of the router: no such path or method
        call.error = f"{error.detail}: {call.name[:200]}"
        status, headers = error.status_code, dict(error.headers or {})
    else:
        known: ServeError = service.explain(error, call)
        status, headers = known.http_status, {}
        if isinstance(known, OverloadedError):
            headers["retry-after"] = "1"
        if status in (413, 504):  # the rest of the body may still be on its way
            headers["connection"] = "close"
        if status == 401:
            headers["www-authenticate"] = "Bearer"
    content = json.dumps({"error": call.error}).encode()
    return Response(content, status_code=status, headers=headers, media_type="application/json")
