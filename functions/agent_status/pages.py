"""Pages of what a run recorded. One row more than the page is read to see if it goes on.

PostgREST cuts answers at the project's max-rows, and does not say so: only an empty answer ends a list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel

from functions.agent_status import cursor as cursors
from shared import run_views as views
from shared.rest_database import Query, RestDatabase
from shared.runs.models import JsonObject

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
    begin: int | None = None
    if cursor is not None:
        begin = cast("int", cursors.decode(cursor, of=of, shape=(int,), max_number=listing.max_number)[0])

    def query(last: JsonObject | None, count: int) -> Query:
        behind = begin if last is None else cast("int", last[listing.number])
        query = database.table(listing.table).select(listing.record.COLUMNS).eq("run_id", str(run_id))
        if behind is not None:
            query = query.lt(listing.number, behind) if listing.newest_first else query.gt(listing.number, behind)
        return query.order(listing.number, desc=listing.newest_first).limit(count)

    rows = await read_rows(database, query, limit + 1)
    kept = rows[:limit]
    goes_on = len(rows) > limit
    return Page(
        items=[listing.record.from_row(row) for row in kept],
        next_cursor=cursors.encode(of, [cast("int", kept[-1][listing.number])]) if goes_on else None,
    )


async def read_rows(
    database: RestDatabase, query: Callable[[JsonObject | None, int], Query], count: int
) -> list[JsonObject]:
    """Read up to `count` rows; `query` makes the query of so many rows behind a row."""
    rows: list[JsonObject] = []
    while len(rows) < count:
        more = await database.rows(query(rows[-1] if rows else None, count - len(rows)))
        if not more:
            break
        rows += more
    return rows
