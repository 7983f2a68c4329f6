"""HTTP for one guarded client: each hop's URL is checked, and the whole way stays within one deadline.

What goes wrong leaves as one of our errors (`shared.egress.errors`), never as httpx's: their messages hold addresses.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

import httpcore
import httpx

from shared.egress.body import BoundedBody, too_large
from shared.egress.errors import ConnectionBroke, TlsFailed
from shared.egress.network import Gate, GuardedBackend
from shared.egress.policy import Origin
from shared.errors import UpstreamTimeout

JOURNEY: Final = "runbase.journey"  # the extension that a request and its redirects share

# Headers that say who calls. httpx drops Authorization alone, and keeps it where only the scheme gets safer.
SENSITIVE: Final = frozenset(
    {
        "authorization",
        "proxy-authorization",
        "cookie",
        "api-key",
        "x-api-key",
        "x-goog-api-key",
        "x-auth-token",
        "apikey",
    }
)


@dataclass(slots=True)
class Journey:
    """One request of a caller's, with the redirects that it meets.

    Attributes:
        deadline: Of all of it, on the loop's clock.
        origin: Where the caller meant it to go; what says who calls is sent nowhere else.
    """

    deadline: float
    origin: Origin | None = None


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends what the gate lets through."""

    def __init__(self, gate: Gate, backend: GuardedBackend) -> None:
        self._gate = gate
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_ssl_context(),
            max_connections=20,
            max_keepalive_connections=5,
            keepalive_expiry=15.0,
            network_backend=backend,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one hop.

        Raises:
            InvalidInput, AddressBlocked: it may not go there; nothing was sent.
            Upstream: it failed, in one of the ways of `shared.egress.errors`.
        """
        journey = cast("Journey", request.extensions[JOURNEY])
        origin = self._gate.check_url(str(request.url))
        journey.origin = journey.origin or origin
        sent = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            ),
            headers=_headers(request, at_home=origin == journey.origin),
            content=request.stream,
            extensions=request.extensions,
        )
        with _failures(origin):
            async with asyncio.timeout_at(journey.deadline):
                response = await self._pool.handle_async_request(sent)
        try:
            return self._bounded(request, response, journey.deadline)
        except BaseException:
            await response.aclose()
            raise

    async def aclose(self) -> None:
        await self._pool.aclose()

    def _bounded(self, request: httpx.Request, response: httpcore.Response, deadline: float) -> httpx.Response:
        headers = httpx.Headers(response.headers)
        limit = self._gate.policy.max_bytes
        length = headers.get("content-length", "")
        if request.method != "HEAD" and length.isdecimal() and (len(length) > 15 or int(length) > limit):
            raise too_large(limit)
        # Only what nobody else would unpack again: the body is plain from here on.
        encoding = headers.pop("content-encoding", "")
        if encoding:
            headers.pop("content-length", None)
        body = BoundedBody(
            cast("AsyncIterable[bytes]", response.stream), encoding=encoding, max_bytes=limit, deadline=deadline
        )
        return httpx.Response(
            response.status, headers=headers, stream=body, extensions=cast("Any", response).extensions
        )


def _headers(request: httpx.Request, *, at_home: bool) -> list[tuple[bytes, bytes]]:
    raw = request.headers.raw
    return raw if at_home else [(name, value) for name, value in raw if name.decode().lower() not in SENSITIVE]


@contextmanager
def _failures(origin: Origin) -> Generator[None]:
    """Say what went wrong in our words."""
    try:
        yield
    except (TimeoutError, httpcore.TimeoutException) as exc:
        raise UpstreamTimeout(f"{origin.host} did not answer in time") from exc
    except httpcore.ConnectError as exc:
        # Our own backend speaks for itself; what is left of connecting is TLS.
        raise TlsFailed(f"No trustworthy connection to {origin.host}: {_tls_trouble(exc)}") from exc
    except (httpcore.NetworkError, httpcore.ProtocolError) as exc:
        raise ConnectionBroke(f"{origin.host} ended the connection before it answered") from exc


def _tls_trouble(exc: BaseException) -> str:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message or "its certificate is not valid"
        cause = cause.__cause__ or cause.__context__
    return "it does not speak TLS"


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    """Made once: reading the authorities' certificates takes longer than most calls."""
    return httpx.create_ssl_context(trust_env=False)
