"""A person's history: the runs of one account, newest first, a page a call.

A page may hold fewer runs than its limit, or none, and still have a next one: the database looks at a bounded number of
runs a call, whatever the filters leave of them. Its order is that of creation, so new runs move no later page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast
from uuid import UUID

import orjson

from functions.agent_status import cursor as cursors
from shared.database import Database
from shared.runs.models import Json, JsonObject
from shared.runs.status import RunStatus

MAX_LIMIT = 200  # runs of one page; SQL holds to it too


@dataclass(frozen=True, slots=True)
class History:
    """Which runs to list. Times are UTC; `text` is searched in what went in and came out, and in the agent's name."""

    account_id: UUID
    statuses: Sequence[RunStatus] = ()
    engine: str | None = None
    agent_id: UUID | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    text: str | None = None

    def arguments(self) -> dict[str, Json]:
        """The filters as `list_runs` takes them."""
        return {
            "p_account_id": str(self.account_id),
            "p_statuses": [str(status) for status in self.statuses] or None,
            "p_engine": self.engine,
            "p_agent_id": None if self.agent_id is None else str(self.agent_id),
            "p_created_after": None if self.created_after is None else self.created_after.isoformat(),
            "p_created_before": None if self.created_before is None else self.created_before.isoformat(),
            "p_text": self.text,
        }

    @property
    def name(self) -> str:
        """What its cursors belong to: the account and, if there are any, the filters."""
        arguments = self.arguments()
        account_id = arguments.pop("p_account_id")
        if not any(arguments.values()):
            return f"runs:{account_id}"
        return f"runs:{account_id}:{hashlib.sha256(orjson.dumps(arguments)).hexdigest()[:16]}"


async def page_of_history(
    database: Database, history: History, *, limit: int, cursor: str | None
) -> tuple[list[JsonObject], str | None]:
    """One page of an account's runs as rows (see `shared.run_views.Run`), and the cursor of the next.

    Raises:
        InvalidInput: the cursor belongs to another list.
    """
    arguments = history.arguments() | {"p_limit": limit}
    if cursor is not None:
        behind_at, behind_id = cursors.behind(cursor, of=history.name)
        arguments |= {"p_behind_at": behind_at, "p_behind_id": behind_id}
    page = cast("Mapping[str, Json]", await database.call("list_runs", arguments))
    place = cast("Mapping[str, str] | None", page["next"])
    return (
        cast("list[JsonObject]", page["runs"]),
        None if place is None else cursors.encode(history.name, [place["created_at"], place["id"]]),
    )
