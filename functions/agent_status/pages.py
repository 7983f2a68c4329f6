"""Pages of what a run recorded, and of a person's runs. One row more than the page is read to see if it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Generic, Literal, TypeVar, cast
from uuid import UUID

from postgrest import AsyncSelectRequestBuilder
from pydantic import BaseModel

from functions.agent_status import cursor as cursors
from shared import run_views as views
from shared.rest_database import RestDatabase
from shared.runs.models import JsonObject
from shared.runs.status import RunStatus

Include = Literal["steps", "messages", "artifacts", "logs", "plan"]
Item = TypeVar("Item", bound=BaseModel)


class Page(BaseModel, Generic[Item]):
    """A part of a list; `next_cursor` is null at its end."""

    items: list[Item]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Where a list of a run lives, and the number that orders it."""

    table: str
    number: str
    record: type[views.Record]
    newest_first: bool = False
    max_number: int = cursors.MAX_BIGINT


LISTINGS: Final[dict[Include, Listing]] = {
    "steps": Listing("agent_steps", "step_no", views.Step, max_number=cursors.MAX_INTEGER),
    "messages": Listing("agent_messages", "message_no", views.Message),
    "artifacts": Listing("agent_artifacts", "artifact_no", views.Artifact),
    "logs": Listing("agent_task_logs", "seq", views.LogLine),
    # The current plan comes first.
    "plan": Listing("agent_plans", "number", views.Plan, newest_first=True, max_number=cursors.MAX_INTEGER),
}


async def page_of_run(
    database: RestDatabase, include: Include, run_id: UUID, *, limit: int, cursor: str | None
) -> Page[views.Record]:
    """One page of what a run recorded.

    Raises:
        InvalidInput: the cursor belongs to another list or run.
    """
    listing = LISTINGS[include]
    of = f"{include}:{run_id}"
    query = database.table(listing.table).select(listing.record.COLUMNS).eq("run_id", str(run_id))
    if cursor is not None:
        (last,) = cursors.decode(cursor, of=of, shape=(int,), max_number=listing.max_number)
        query = query.lt(listing.number, last) if listing.newest_first else query.gt(listing.number, last)
    rows = await database.rows(query.order(listing.number, desc=listing.newest_first).limit(limit + 1))
    kept = rows[:limit]
    goes_on = len(rows) > limit
    return Page(
        items=[listing.record.from_row(row) for row in kept],
        next_cursor=cursors.encode(of, [cast("int", kept[-1][listing.number])]) if goes_on else None,
    )


@dataclass(frozen=True, slots=True)
class History:
    """Which runs to list: those of one account, newest first. Times are UTC."""

    account_id: UUID
    statuses: Sequence[RunStatus]
    engine: str | None
    created_after: datetime | None
    created_before: datetime | None


async def page_of_runs(
    database: RestDatabase, history: History, *, limit: int, cursor: str | None
) -> tuple[list[JsonObject], str | None]:
    """One page of an account's runs as rows, and the cursor of the next.

    Raises:
        InvalidInput: the cursor belongs to another list.
    """
    of = f"runs:{history.account_id}"
    query = _filtered(database.table("agent_runs").select(views.Run.COLUMNS), history)
    if cursor is not None:
        query = query.or_(_behind(cursor, of))
    rows = await database.rows(query.order("created_at", desc=True).order("id").limit(limit + 1))
    if len(rows) <= limit:
        return rows, None
    kept = rows[:limit]
    return kept, cursors.encode(of, [cast("str", kept[-1]["created_at"]), cast("str", kept[-1]["id"])])


def _filtered(query: AsyncSelectRequestBuilder, history: History) -> AsyncSelectRequestBuilder:
    query = query.eq("account_id", str(history.account_id))
    if history.statuses:
        query = query.in_("status", [str(status) for status in history.statuses])
    if history.engine is not None:
        query = query.eq("engine", history.engine)
    if history.created_after is not None:
        query = query.gt("created_at", history.created_after.isoformat())
    if history.created_before is not None:
        query = query.lt("created_at", history.created_before.isoformat())
    return query


def _behind(cursor: str, of: str) -> str:
    """The runs behind the cursor in (created_at desc, id). Its parts are parsed: they become part of a filter."""
    created_at, run_id = cursors.decode(cursor, of=of, shape=(str, str))
    try:
        given, last = datetime.fromisoformat(str(created_at)), UUID(str(run_id))
        if given.tzinfo is None:
            raise cursors.foreign()
        time = given.astimezone(UTC)  # Postgres does not know every offset that Python reads
    except (ValueError, OverflowError):
        raise cursors.foreign() from None
    return f'created_at.lt."{time.isoformat()}",and(created_at.eq."{time.isoformat()}",id.gt.{last})'
