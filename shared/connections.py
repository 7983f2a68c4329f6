"""One pool of HTTP connections for an event loop.

A pooled connection belongs to the loop it was opened in. A server has one loop for its life; Lambda and the tests may
have several, one after the other, and a client of a closed loop must not be used again.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

import httpx

_TIMEOUT = httpx.Timeout(15.0, connect=5.0)  # seconds; PostgREST itself gives up after 8
_LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=50, keepalive_expiry=30.0)

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()


def http_client() -> httpx.AsyncClient:
    """The running loop's client, made at first use. It lives as long as the loop; nobody closes it."""
    loop = asyncio.get_running_loop()
    client = _clients.get(loop)
    if client is None:
        # One retry of the connection alone: nothing was sent yet, so it is safe for every method.
        transport = httpx.AsyncHTTPTransport(retries=1, limits=_LIMITS)
        client = _clients[loop] = httpx.AsyncClient(transport=transport, timeout=_TIMEOUT)
    return client
