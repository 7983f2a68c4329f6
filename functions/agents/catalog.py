"""Reading the catalog: `public.agent_catalog` under the caller's row-level security, newest first."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from functions.agent_status import cursor as cursors
from functions.agent_status.pages import read_rows
from functions.agents.answers import AgentCard, Agents
from functions.agents.bodies import ListAgents
from shared.errors import NotFound
from shared.rest_database import Query, RestDatabase
from shared.runs.models import JsonObject

_LIST: Final = "agents"
_ONLY: Final = {"published": ("status", "published"), "runnable": ("may_run", "true"), "editable": ("may_edit", "true")}


async def page_of_agents(database: RestDatabase, query: ListAgents) -> Agents:
    """A page; `next_cursor` is null at the end.

    Raises:
        InvalidInput: the cursor is not of this list.
    """
    begin = None if query.cursor is None else cursors.behind(query.cursor, of=_LIST)

    def page(last: JsonObject | None, count: int) -> Query:
        wanted = database.table("agent_catalog").select(AgentCard.COLUMNS).eq(*_ONLY[query.only])
        if query.engine is not None:
            wanted = wanted.eq("engine", query.engine)
        if query.search is not None:
            pattern = _quoted(f"%{_plain(query.search)}%")
            wanted = wanted.or_(f"name.ilike.{pattern},description.ilike.{pattern}")
        place = begin if last is None else (str(last["created_at"]), str(last["id"]))
        if place is not None:
            at, agent_id = _quoted(place[0]), place[1]
            wanted = wanted.or_(f"created_at.lt.{at},and(created_at.eq.{at},id.gt.{agent_id})")
        return wanted.order("created_at", desc=True).order("id").limit(count)

    rows = await read_rows(database, page, query.limit + 1)
    kept = rows[: query.limit]
    last = [str(kept[-1]["created_at"]), str(kept[-1]["id"])] if len(rows) > len(kept) else None
    return Agents(
        agents=[AgentCard.from_row(row) for row in kept],
        next_cursor=None if last is None else cursors.encode(_LIST, last),
    )


async def row_of_agent(database: RestDatabase, agent_id: UUID) -> JsonObject:
    """The catalog's row.

    Raises:
        NotFound: there is no such agent, or it is not for the caller to see.
    """
    columns = f"{AgentCard.COLUMNS},input_schema"
    rows = await database.rows(database.table("agent_catalog").select(columns).eq("id", str(agent_id)))
    if not rows:
        raise NotFound(f"There is no agent {agent_id}")
    return rows[0]


def _plain(text: str) -> str:
    """The text with what LIKE and PostgREST would take for more than itself taken as itself."""
    for special in ("\\", "%", "_"):
        text = text.replace(special, f"\\{special}")
    return text.replace("*", "_")  # PostgREST's own wildcard, which nothing escapes


def _quoted(value: str) -> str:
    """A value inside PostgREST's `or`, where commas and brackets would end it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
