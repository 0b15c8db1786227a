"""Who may ask: the names that a server is reached by, the pages that ask it, and the API key."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from .addresses import is_loopback
from .errors import ForbiddenError, UnauthorizedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .settings import Settings

ANY = "*"


class Access:
    """What a server asks of its callers.

    A page in a browser on this machine can reach a server that listens on the loopback interface, under its own site's
    name if it lets that name point there: so names are compared where only this machine is meant to ask. A page of
    another site cannot read an answer, but make the server work: so its origin must be the server itself.
    """

    def __init__(self, settings: Settings) -> None:
        self._key = settings.api_key.encode()
        self._named = frozenset(name.lower() for name in settings.allowed_hosts)
        self._local = is_loopback(settings.host)
        self._hosts: set[bytes] = set()

    def check_origin(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Let an HTTP request pass that no foreign page has sent.

        Args:
            headers: Its headers, names in small letters.

        Raises:
            ForbiddenError: Host or Origin names another site.
        """
        host, origin = b"", b""
        for name, value in headers:
            if name == b"host":
                host = value
                if value not in self._hosts:
                    self._check_host(value)
            elif name == b"origin":
                origin = value
        if origin and ANY not in self._named:
            site = origin.partition(b"://")[2].lower()
            if site != host.lower() and _name(site) not in self._named:
                raise ForbiddenError(
                    f"The header Origin is {origin[:80].decode('latin-1')!r}.",
                    expected="a page of this server",
                    remedy="start it with --allow-host NAME if that site's pages may ask",
                )

    def _check_host(self, host: bytes) -> None:
        if self._named or self._local:
            name = _name(host)
            if not (ANY in self._named or name in self._named or (self._local and is_loopback(name))):
                raise ForbiddenError(
                    f"The header Host is {host[:80].decode('latin-1')!r}.",
                    expected=", ".join(sorted(self._named)) or "localhost, or an address of the loopback interface",
                    remedy="start the server with --allow-host NAME for the name that it is reached by",
                )
        if len(self._hosts) < 64:
            self._hosts.add(host)

    def check_key(self, authorization: str, key: str) -> None:
        """Let a caller pass who knows the API key, where there is one.

        Args:
            authorization: Value of the header Authorization: ``Bearer KEY``.
            key: Value of the header X-API-Key, as good as the other.

        Raises:
            UnauthorizedError: Neither is right.
        """
        if not self._key:
            return
        scheme, _, rest = authorization.partition(" ")
        given = key or (rest.strip() if scheme.lower() == "bearer" else authorization)
        if not hmac.compare_digest(given.encode(), self._key):
            raise UnauthorizedError(
                "The API key is missing or wrong.", expected="the header Authorization: Bearer KEY, or X-API-Key: KEY"
            )


def _name(host: bytes) -> str:
    """Return the name in a host with or without a port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")
