"""The one door to Postgres: every change of state is a call of a SQL function, over whichever wire is at hand.

`rpc` over PostgREST carries a person's JWT or the service key; a direct connection (psycopg 3) belongs to workers. Both
answer the same JSON and raise the same errors, which the contract tests hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from shared.runs.models import Json


class Database(Protocol):
    """Calls SQL functions of the `public` schema by name."""

    async def call(self, function: str, arguments: Mapping[str, Json]) -> Json:
        """Call `public.<function>` with named arguments and return its JSON answer.

        Raises:
            AppError: the function refused (see `shared.errors.error_for`).
            DatabaseUnavailable: no answer; whether the call committed is unknown.
        """
        ...

    async def close(self) -> None:
        """Release connections."""
        ...
