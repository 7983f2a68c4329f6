"""A Flowise server of the recorded shapes, and a client of it over the guarded way out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from local.stand_ins.flowise import FlowiseServer
from shared.engines.flowise.client import FlowiseClient, Limits
from shared.engines.flowise.performing import guarded
from shared.vault.secret import Secret
from tests.support.canaries import canary

SERVER_KEY = canary("flowise-")
MakeClient = Callable[..., "AsyncGenerator[FlowiseClient]"]


async def no_wait(seconds: float) -> None:
    del seconds


QUICK = Limits(total_seconds=20, idle_seconds=10, sleep=no_wait)


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may be called, as in the local stack."""
    monkeypatch.setenv("SUPABASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("EGRESS_ALLOWED_NETWORKS", "127.0.0.0/8")


@pytest.fixture
def flowise(loopback: None) -> Iterator[FlowiseServer]:
    with FlowiseServer(key=SERVER_KEY) as server:
        yield server


@pytest.fixture
async def client_of() -> AsyncGenerator[Callable[..., FlowiseClient]]:
    """Make a client of a URL, with the server's key unless another is given."""
    async with AsyncExitStack() as stack:
        clients: list[FlowiseClient] = []

        def make(url: str, *, key: str | None = SERVER_KEY, limits: Limits = QUICK) -> FlowiseClient:
            http = guarded(frozenset([url]))
            stack.push_async_callback(http.aclose)
            secret = None if key is None else Secret(key)
            clients.append(FlowiseClient(http, base_url=url, api_key=secret, limits=limits))
            return clients[-1]

        yield make
