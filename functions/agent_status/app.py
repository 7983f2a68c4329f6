"""GET or POST /functions/v1/agent-status: one run with what it recorded, or the caller's history.

With `run_id`: the run, and a page of each list that `include` names: steps, messages, artifacts, logs, plan (the
current one first). Each has its own `next_cursor`; to go on, ask again with that one `include` and the cursor.
Without: the runs of an account (default: the caller's personal one), newest first, filtered by `status`, `engine`,
`agent_id`, `created_after`, `created_before` and `text`, which is searched in what went in and came out and in the
agent's name, whatever the case. A page looks at 10,000 runs at most, 1,000 with `text`: so it may have fewer than
`limit`, or none, and a `next_cursor` all the same. With `export` (csv or jsonl) the answer is a file of all of them; on
a host that cannot stream, a part of it, with the next one's cursor in the header X-Next-Cursor.

A GET gives lists with commas: `?include=steps,logs`. A run of somebody else does not exist (404). Credits are credits.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Self, cast
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    model_validator,
)
from pydantic_core import PydanticCustomError

from functions.agent_status.export import Export
from functions.agent_status.export_rows import Format
from functions.agent_status.history import MAX_LIMIT, History, page_of_history
from functions.agent_status.pages import Include, Page, page_of_run, read_rows
from shared import run_views as views
from shared.errors import NotFound
from shared.http import Answer, Call, endpoint, serverless
from shared.http.times import Instant
from shared.rest_database import Query, RestDatabase
from shared.runs.models import JsonObject
from shared.runs.status import RunStatus

MAX_QUESTIONS = 1000  # of all runs of a page
SECONDS_OF_HOST = 20.0  # for one that buffers answers and does not say how long it lets a request run

# A list may be written with commas, as a query has it; in JSON a single name will do.
Listed = BeforeValidator(lambda value: value.split(",") if isinstance(value, str) else value)


_OF_HISTORY = {"account_id", "status", "engine", "agent_id", "created_after", "created_before", "text", "export"}


class StatusQuery(BaseModel):
    """Which run, or which runs."""

    model_config = ConfigDict(extra="forbid")

    run_id: UUID | None = None
    include: Annotated[list[Include], Listed] = []
    limit: int = Field(default=50, ge=1, le=MAX_LIMIT, description="Items in each page")
    cursor: str | None = Field(default=None, max_length=500)
    account_id: UUID | None = None
    status: Annotated[list[RunStatus], Listed] = []
    engine: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]{0,31}$")
    agent_id: UUID | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None
    text: str | None = Field(
        default=None, min_length=1, max_length=200, description="In input, output, error or the agent's name"
    )
    export: Format | None = Field(default=None, description="The history as a file")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.run_id is None:
            if self.include:
                raise PydanticCustomError("include_of_run", "include needs run_id")
            if self.export is not None and "limit" in self.model_fields_set:
                raise PydanticCustomError("limit_of_page", "limit is of pages; an export has every run")
            return self
        if given := sorted(self.model_fields_set & _OF_HISTORY):
            raise PydanticCustomError(
                "filter_of_history", "{field} filters the history, not one run", {"field": given[0]}
            )
        if self.cursor is not None and len(set(self.include)) != 1:
            raise PydanticCustomError("cursor_of_list", "cursor needs exactly one include")
        return self


class Status(BaseModel):
    """One run, and the pages that were asked for."""

    run: views.Run
    steps: Page[views.Step] | None = None
    messages: Page[views.Message] | None = None
    artifacts: Page[views.Artifact] | None = None
    logs: Page[views.LogLine] | None = None
    plan: Page[views.Plan] | None = None


class Runs(BaseModel):
    """A page of the history."""

    runs: list[views.Run]
    next_cursor: str | None = Field(description="Null at the end alone: a page may be short, or empty, before it")


async def agent_status(call: Call[StatusQuery]) -> Answer:
    """Answer about one run or about many."""
    query = call.body
    if query.run_id is not None:
        return 200, await _one(call.database, query.run_id, query)
    history = History(
        account_id=query.account_id or call.user.user_id,  # the personal account has its user's id
        statuses=query.status,
        engine=query.engine,
        agent_id=query.agent_id,
        created_after=query.created_after,
        created_before=query.created_before,
        text=query.text,
    )
    if query.export is None:
        return 200, await _history(call.database, history, query)
    export = Export(call.database, history, query.export, query.cursor)
    if call.is_buffered:
        seconds_left = call.seconds_left()
        return await export.part(seconds=(SECONDS_OF_HOST if seconds_left is None else seconds_left) / 2)
    return await export.stream()


async def _one(database: RestDatabase, run_id: UUID, query: StatusQuery) -> Status:
    includes = list(dict.fromkeys(query.include))
    pages_of = (page_of_run(database, name, run_id, limit=query.limit, cursor=query.cursor) for name in includes)
    rows, questions, pages = await asyncio.gather(
        database.call("show_runs", {"p_run_ids": [str(run_id)]}),
        _open_questions(database, [run_id]),
        asyncio.gather(*pages_of),
    )
    if not rows:
        raise NotFound(f"There is no run {run_id}")
    (row,) = cast("list[JsonObject]", rows)
    shown: dict[str, Any] = dict(zip(includes, pages, strict=True))
    return Status.model_construct(run=views.Run.from_row(row, questions=questions), **shown)


async def _history(database: RestDatabase, history: History, query: StatusQuery) -> Runs:
    rows, cursor = await page_of_history(database, history, limit=query.limit, cursor=query.cursor)
    asking = [UUID(cast("str", row["id"])) for row in rows if row["finished_at"] is None]
    questions = await _open_questions(database, asking) if asking else []
    return Runs(
        runs=[
            views.Run.from_row(row, questions=[one for one in questions if one["run_id"] == row["id"]]) for row in rows
        ],
        next_cursor=cursor,
    )


async def _open_questions(database: RestDatabase, run_ids: list[UUID]) -> list[JsonObject]:
    ids = [str(run_id) for run_id in run_ids]

    def query(last: JsonObject | None, count: int) -> Query:
        query = database.table("human_requests").select(views.HumanRequest.COLUMNS)
        query = query.eq("status", "open").in_("run_id", ids)
        if last is not None:
            query = query.gt("id", last["id"])
        return query.order("id").limit(count)

    rows = await read_rows(database, query, MAX_QUESTIONS)
    return sorted(rows, key=lambda row: (str(row["created_at"]), str(row["id"])))


app = endpoint(
    agent_status,
    slug="agent-status",
    accepts=TypeAdapter(StatusQuery),
    replies={200: Status | Runs},
    methods=("GET", "POST"),
    key_scope="runs:read",
)
handler = serverless(app)
