"""The functions on a whole stack, and people who call them over HTTP with real tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx
import pytest

from shared.direct_database import DirectDatabase
from tests.functions.programs import Owner
from tests.functions.visitor import HandWorker, Visitor
from tests.support.canaries import leaks_in
from tests.support.stack import Stack


class Overheard(httpx.AsyncByteStream):
    """An answer as it comes, in which keys are looked for."""

    def __init__(self, stream: httpx.AsyncByteStream, leaks: list[str]) -> None:
        self._stream = stream
        self._leaks = leaks

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        before = b""
        async for chunk in self._stream:
            self._leaks.extend(leaks_in(before + chunk))
            before = chunk[-100:]
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.fixture
async def http(stack: Stack) -> AsyncGenerator[httpx.AsyncClient]:
    """A client that hears no key in any answer."""
    heard: list[str] = []

    async def listen(response: httpx.Response) -> None:
        heard.extend(leaks_in(str(response.headers)))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = Overheard(response.stream, heard)

    async with httpx.AsyncClient(base_url=stack.url, timeout=30, event_hooks={"response": [listen]}) as client:
        yield client
    assert heard == []


@pytest.fixture
async def database(stack: Stack) -> AsyncGenerator[DirectDatabase]:
    async with DirectDatabase(stack.database_url) as database:
        yield database


@pytest.fixture
def visitor(http: httpx.AsyncClient, stack: Stack) -> Callable[[str], Visitor]:
    """Make a visitor of a bearer token."""

    def visit(token: str) -> Visitor:
        return Visitor(http, {"Authorization": f"Bearer {token}", "apikey": stack.anon_key})

    return visit


@pytest.fixture
async def owner(stack: Stack, visitor: Callable[[str], Visitor]) -> Visitor:
    return visitor((await stack.sign_up()).access_token)


@pytest.fixture
async def stranger(stack: Stack, visitor: Callable[[str], Visitor]) -> Visitor:
    return visitor((await stack.sign_up()).access_token)


@pytest.fixture
def service(http: httpx.AsyncClient, stack: Stack) -> Visitor:
    return Visitor(http, {"apikey": stack.service_key})


@pytest.fixture
def held_run(owner: Visitor, database: DirectDatabase) -> Callable[[], Awaitable[tuple[str, HandWorker]]]:
    """Make a run of the owner's that a worker holds."""

    async def hold() -> tuple[str, HandWorker]:
        run_id = (await owner.create(autostart=True))["run_id"]
        worker = HandWorker(database, run_id)
        await worker.claim()
        return run_id, worker

    return hold


@pytest.fixture
async def key_owner(stack: Stack, visitor: Callable[[str], Visitor]) -> Owner:
    """Somebody who makes API keys."""
    person = await stack.sign_up()
    return Owner(stack, person, visitor(person.access_token), visitor)
