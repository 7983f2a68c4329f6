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

    async def lines(self, *, after: int, limit: int) -> list[LogLine]:
        """Read the first `limit` lines behind seq `after`."""
        query = self.database.table("agent_task_logs").select(LogLine.COLUMNS).eq("run_id", str(self.run_id))
        if self.types:
            query = query.in_("log_type", list(self.types))
        rows = await self.database.rows(query.gt("seq", after).order("seq").limit(limit))
        return [LogLine.from_row(row) for row in rows]

    async def deltas(self) -> list[Delta]:
        """Read all text of steps that are being written."""
        return _DELTAS.validate_python(await self.database.call("run_deltas", {"p_run_id": str(self.run_id)}))
