"""The run core's fixtures: the database over either wire, a store on it, a person."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import pytest

from shared.database import Database
from shared.direct_database import DirectDatabase
from shared.rest_database import RestDatabase
from shared.runs.store import RunStore
from tests.support.model_server import ModelServer
from tests.support.runs import Person, new_person
from tests.support.stack import stack_over


@pytest.fixture(params=["direct", "postgrest"])
async def either_wire(request: pytest.FixtureRequest, database_url: str) -> AsyncGenerator[Database]:
    """The same functions over psycopg and over PostgREST: whatever a test says holds on both."""
    if request.param == "direct":
        async with DirectDatabase(database_url) as database:
            yield database
        return
    async with stack_over(database_url) as stack:
        yield RestDatabase(f"{stack.url}/rest/v1", apikey=stack.service_key)


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[DirectDatabase]:
    async with DirectDatabase(database_url) as database:
        yield database


@pytest.fixture
def store(database: DirectDatabase) -> RunStore:
    return RunStore(database)


@pytest.fixture
async def person(database_url: str) -> Person:
    return await new_person(database_url)


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server
