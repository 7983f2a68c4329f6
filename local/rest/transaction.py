"""One request is one transaction, and as a rule one roundtrip.

Begin, the request's settings, the statement and commit are sent together (pipeline mode); if one of them fails,
the server skips the rest and the transaction is rolled back. Only a request that may refuse what it sees in the
result commits in a second roundtrip.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.pq.abc import PGresult
from psycopg.rows import TupleRow
from psycopg.sql import SQL
from starlette.responses import Response

from local.rest.catalog import QualifiedName
from local.rest.errors import ApiError, header_of, without_forbidden_body
from local.rest.sql import Parameters, Statement, joined, qualified
from local.services import Pool

Setting = tuple[str, str]
_STATUS = re.compile(r"[2-5][0-9]{2}")
_ISOLATION_SETTING = "default_transaction_isolation"
_ISOLATIONS = frozenset({"serializable", "repeatable read", "read committed", "read uncommitted"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one row that `answers.answer` selects, and how many rows the planner expected where it was asked."""

    body: bytes
    row_count: int
    total: int | None
    inserted: int | None
    response_headers: str | None
    response_status: str | None
    planned: int | None = None

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

    @classmethod
    def of_lines(cls, result: PGresult) -> Outcome:
        """Take a result of one text column as the body."""
        lines = [result.get_value(row, 0) or b"" for row in range(result.ntuples)]
        return cls(b"\n".join(lines), len(lines), None, None, None, None)

    def override(self, response: Response) -> Response:
        """Apply the status and headers that SQL set by `response.status` and `response.headers`.

        A header may be given more than once (cookies); ours of the same name gives way.

        Raises:
            ApiError: PGRST111 or PGRST112 if they cannot be read.
        """
        if self.response_status is not None:
            if not _STATUS.fullmatch(self.response_status):
                raise ApiError(500, "PGRST112", "response.status guc must be a valid status code")
            response.status_code = int(self.response_status)
        headers = _header_list(self.response_headers)
        for name in {name.lower() for name, _ in headers} & set(response.headers.keys()):
            del response.headers[name]
        for name, value in headers:
            response.headers.append(name, value)
        return without_forbidden_body(response)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run and how to answer.

    `respond` may refuse (`ApiError`); with `commits_last` the transaction waits for it and is rolled back then.
    `explained` is a statement whose number of rows the planner is to estimate. With `is_explained` the statement
    itself yields its plan, a text in lines.
    """

    statement: Statement
    respond: Callable[[Outcome], Response]
    explained: Statement | None = None
    is_read_only: bool = False
    commits_last: bool = False
    settings: Sequence[Setting] = ()
    is_explained: bool = False


async def run(
    pool: Pool,
    plan: Plan,
    *,
    settings: Sequence[Setting],
    pre_request: QualifiedName | None = None,
    ending: bytes = b"commit",
) -> Response:
    """Run `plan` under `settings`, applied in their order and for this transaction only.

    `pre_request` is a function that is called before the statement, and may refuse the request. `ending` is the
    last statement, where nothing was refused.
    """
    read = Outcome.of_lines if plan.is_explained else Outcome.of
    async with pool.connection() as connection:
        outcome = await _send(connection, _statements(plan, settings, pre_request, ending), read)
        response = outcome.override(plan.respond(outcome))
        if plan.commits_last:
            await connection.execute(ending)
        return response


@dataclass(frozen=True, slots=True)
class _Transaction:
    """The statements of one roundtrip: what comes `before` the one that answers, and `after` it."""

    before: Sequence[Statement]
    answering: Statement
    explained: Statement | None
    after: Sequence[Statement]


def _statements(
    plan: Plan, settings: Sequence[Setting], pre_request: QualifiedName | None, ending: bytes
) -> _Transaction:
    values = [part for setting in settings for part in setting]
    before = [Statement(_begin(plan, settings)), Statement(_settings_statement(len(settings)), values)]
    if pre_request is not None:
        before.append(Statement(SQL("select {}()").format(qualified(pre_request)).as_bytes(None)))
    return _Transaction(before, plan.statement, plan.explained, [] if plan.commits_last else [Statement(ending)])


def _begin(plan: Plan, settings: Sequence[Setting]) -> bytes:
    """A role's or function's default isolation would come too late for a transaction that has begun."""
    isolation = dict(settings).get(_ISOLATION_SETTING, "").lower()
    level = f" isolation level {isolation}".encode() if isolation in _ISOLATIONS else b""
    return b"begin" + level + (b" read only" if plan.is_read_only else b"")


async def _send(
    connection: AsyncConnection[TupleRow], transaction: _Transaction, read: Callable[[PGresult], Outcome]
) -> Outcome:
    answering, explaining = AsyncRawCursor(connection), AsyncRawCursor(connection)
    failure: psycopg.Error | None = None
    try:
        async with connection.pipeline():
            try:
                for statement in transaction.before:
                    await AsyncRawCursor(connection).execute(statement.text, statement.values)
                if transaction.explained is not None:
                    await explaining.execute(transaction.explained.text, transaction.explained.values)
                await answering.execute(transaction.answering.text, transaction.answering.values)
                for statement in transaction.after:
                    await AsyncRawCursor(connection).execute(statement.text, statement.values)
            except psycopg.Error as exc:
                failure = exc  # the pipeline would log its own abortion if this went through its end
    except psycopg.Error as exc:
        raise (failure or exc) from None
    if failure is not None or answering.pgresult is None:
        raise failure or RuntimeError("the statement has no result")
    outcome = read(answering.pgresult)
    if transaction.explained is None or explaining.pgresult is None:
        return outcome
    (explanation,) = orjson.loads(explaining.pgresult.get_value(0, 0) or b"[{}]")
    return replace(outcome, planned=explanation["Plan"]["Plan Rows"])


@lru_cache
def _settings_statement(count: int) -> bytes:
    parameters = Parameters()
    calls = [SQL("set_config({}, {}, true)").format(parameters.bind(None), parameters.bind(None)) for _ in range(count)]
    return SQL("select {}").format(joined(calls)).as_bytes(None)


def _header_list(text: str | None) -> list[Setting]:
    if text is None:
        return []
    try:
        return [header_of(name, value) for header in orjson.loads(text) for name, value in header.items()]
    except (ValueError, AttributeError, TypeError) as exc:
        raise ApiError(
            500,
            "PGRST111",
            "response.headers guc must be a JSON array composed of objects with a single key and a string value",
        ) from exc
