"""The vault's fixtures: keys, a person, the database as a worker has it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from shared.vault.opening import Vault
from shared.vault.ring import KeyRing
from tests.support.runs import Person, new_person
from tests.vault.people import ring


@pytest.fixture
def keys() -> KeyRing:
    return ring(1)


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[DirectDatabase]:
    async with DirectDatabase(database_url) as database:
        yield database


@pytest.fixture
def store(database: DirectDatabase) -> RunStore:
    return RunStore(database)


@pytest.fixture
def vault(database: DirectDatabase, keys: KeyRing) -> Vault:
    return Vault(database, keys)


@pytest.fixture
async def person(database_url: str) -> Person:
    return await new_person(database_url)
