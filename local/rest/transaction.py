"""One request is one transaction, and as a rule one roundtrip.

Begin, the request's settings, the statement and commit are sent together (pipeline mode); if one of them fails,
the server skips the rest and the transaction is rolled back. Only a request that may refuse what it sees in the
result commits in a second roundtrip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg.sql import SQL
from starlette.responses import Response

from local.rest.errors import ApiError
from local.rest.sql import Parameters, Statement, joined
from local.services import Pool

Setting = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one row that `answers.answer` selects."""

    body: bytes
    row_count: int
    total: int | None
    inserted: int | None
    response_headers: str | None
    response_status: str | None

    @classmethod
    def of(cls, result: PGresult) -> Outcome:
        """Take the values as the server sent them; the body is passed on without being decoded."""
        body, row_count, total, inserted, headers, status = (result.get_value(0, column) for column in range(6))
        return cls(
            body=body or b"",
            row_count=int(row_count or 0),
            total=None if total is None else int(total),
            inserted=None if inserted is None else int(inserted),
            response_headers=None if headers is None else headers.decode(),
            response_status=None if status is None else status.decode(),
        )

    def override(self, response: Response) -> Response:
        """Apply the status and headers that SQL set by `response.status` and `response.headers`.

        Raises:
            ApiError: PGRST111 or PGRST112 if they cannot be read.
        """
        if self.response_status is not None:
            if not self.response_status.isdigit() or not 100 <= int(self.response_status) <= 599:
                raise ApiError(500, "PGRST112", "response.status guc must be a valid status code")
            response.status_code = int(self.response_status)
        for name, value in _header_list(self.response_headers):
            response.headers[name] = value
        return response


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and how to answer.

    `respond` may refuse (`ApiError`); with `commits_last` the transaction waits for it and is rolled back then.
    """

    statement: Statement
    respond: Callable[[Outcome], Response]
    is_read_only: bool = False
    commits_last: bool = False
    settings: Sequence[Setting] = ()


async def run(pool: Pool, plan: Plan, *, settings: Sequence[Setting]) -> Response:
    """Run `plan` under `settings`, applied in their order and for this transaction only."""
    async with pool.connection() as connection:
        outcome = Outcome.of(await _send(connection, plan, settings))
        response = outcome.override(plan.respond(outcome))
        if plan.commits_last:
            await connection.execute(b"commit")
        return response


async def _send(connection: AsyncConnection[TupleRow], plan: Plan, settings: Sequence[Setting]) -> PGresult:
    cursor = AsyncRawCursor(connection)
    failure: psycopg.Error | None = None
    try:
        async with connection.pipeline():
            try:
                await connection.execute(b"begin read only" if plan.is_read_only else b"begin")
                await AsyncRawCursor(connection).execute(
                    _settings_statement(len(settings)), [part for setting in settings for part in setting]
                )
                await cursor.execute(plan.statement.text, plan.statement.values)
                if not plan.commits_last:
                    await connection.execute(b"commit")
            except psycopg.Error as exc:
                failure = exc  # the pipeline would log its own abortion if this went through its end
    except psycopg.Error as exc:
        raise (failure or exc) from None
    if failure is not None or cursor.pgresult is None:
        raise failure or RuntimeError("the statement has no result")
    return cursor.pgresult


@lru_cache
def _settings_statement(count: int) -> bytes:
    parameters = Parameters()
    calls = [SQL("set_config({}, {}, true)").format(parameters.bind(None), parameters.bind(None)) for _ in range(count)]
    return SQL("select {}").format(joined(calls)).as_bytes(None)


def _header_list(text: str | None) -> list[Setting]:
    if text is None:
        return []
    try:
        return [(name, value) for header in orjson.loads(text) for name, value in header.items()]
    except (orjson.JSONDecodeError, AttributeError, TypeError) as exc:
        raise ApiError(
            500,
            "PGRST111",
            "response.headers guc must be a JSON array composed of objects with a single key and a string value",
        ) from exc
