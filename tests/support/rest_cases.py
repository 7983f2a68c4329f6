"""Tables of requests with the answers that PostgREST gives, and the museum that they are put to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.database import TestServer
from tests.support.museum import MUSEUM
from tests.support.rest import Shop, open_shop


def by_id(cases: Mapping[str, object]) -> list[Any]:
    """The parameters of one test, each under the name that it has in the table."""
    return [pytest.param(case, id=name) for name, case in cases.items()]


@asynccontextmanager
async def open_museum(server: TestServer, template: str) -> AsyncGenerator[Shop]:
    url = server.clone(template)
    try:
        async with open_shop(url, MUSEUM) as shop:
            yield shop
    finally:
        server.drop(url)
