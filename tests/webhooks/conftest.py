"""The run core's own wire, and a person whose runs wait."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from shared.direct_database import DirectDatabase
from tests.support.runs import Person, new_person


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[DirectDatabase]:
    async with DirectDatabase(database_url) as database:
        yield database


@pytest.fixture
async def person(database_url: str) -> Person:
    return await new_person(database_url)
