"""What a reader of logs asks the database, with the caller's token: the run's head, lines, text being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast
from uuid import UUID

from pydantic import BaseModel, TypeAdapter

from shared.errors import NotFound
from shared.rest_database import RestDatabase
from shared.run_views import LogLine
from shared.runs.models import LogType
from shared.runs.status import RunStatus


@dataclass(frozen=True, slots=True)
class Head:
    """Where the run stands. Every line up to `log_seq` is committed: seqs are given out under the run's row lock."""

    status: RunStatus
    revision: int
    log_seq: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Lines in order.

    Attributes:
        reached: Nothing up to this seq is still to be read.
        is_all: These are the last up to the head's seq.
    """

    lines: list[LogLine]
    reached: int
    is_all: bool


class Delta(BaseModel):
    """A piece of the text that an open step's model is writing, `offset` characters from its start."""

    step_no: int
    attempt: int
    offset: int
    text: str


_DELTAS = TypeAdapter(list[Delta])


@dataclass(frozen=True, slots=True)
class LogSource:
    """The log of one run, narrowed to `types` if there are any."""

    database: RestDatabase
    run_id: UUID
    types: tuple[LogType, ...] = ()

    async def head(self) -> Head:
        """Read where the run stands.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
        """
        query = self.database.table("agent_runs").select("status,revision,log_seq").eq("id", str(self.run_id))
        rows = await self.database.rows(query)
        if not rows:
            raise NotFound(f"There is no run {self.run_id}")
        row = rows[0]
        return Head(RunStatus(cast("str", row["status"])), cast("int", row["revision"]), cast("int", row["log_seq"]))

    async def lines(self, head: Head, *, after: int, limit: int) -> Reading:
        """Read the first `limit` lines behind seq `after`; `head` was read before."""
        lines: list[LogLine] = []
        reached = after
        while reached < head.log_seq and len(lines) < limit:
            page = await self._page(after=reached, limit=limit - len(lines))
            # Only an empty page ends the log early. A short one may have been cut by PostgREST's own max-rows.
            if not page:
                return Reading(lines, head.log_seq if self.types else reached, is_all=True)
            lines += page
            reached = page[-1].seq
        return Reading(lines, reached, is_all=reached >= head.log_seq)

    async def _page(self, *, after: int, limit: int) -> list[LogLine]:
        query = self.database.table("agent_task_logs").select(LogLine.COLUMNS).eq("run_id", str(self.run_id))
        if self.types:
            query = query.in_("log_type", list(self.types))
        rows = await self.database.rows(query.gt("seq", after).order("seq").limit(limit))
        return [LogLine.from_row(row) for row in rows]

    async def deltas(self) -> list[Delta]:
        """Read all text of steps that are being written."""
        return _DELTAS.validate_python(await self.database.call("run_deltas", {"p_run_id": str(self.run_id)}))
