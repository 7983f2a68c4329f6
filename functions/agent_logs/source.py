"""What a reader of logs asks the database, with the caller's token: one call a reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel, Field

from shared.database import Database
from shared.run_views import LogLine
from shared.runs.models import Json, LogType
from shared.runs.status import RunStatus

Written = Mapping[tuple[int, int], int]
"""How many characters of a step's attempt the reader has: (step_no, attempt) -> characters."""


class Delta(BaseModel):
    """A piece of the text that an open step's model is writing, `offset` characters from its start."""

    step_no: int
    attempt: int
    offset: int
    text: str


class Reading(BaseModel):
    """Where the run stands, and what came behind a seq: all of one moment.

    Attributes:
        lines: In order.
        reached: Nothing up to this seq is still to be read.
        more: Lines follow at once.
        deltas: Pieces that end behind what the reader has; the first may begin before.
    """

    status: RunStatus
    revision: int
    lines: list[LogLine]
    reached: int
    more: bool
    deltas: list[Delta] = Field(default=[])

    @property
    def is_last(self) -> bool:
        """The run has ended and nothing follows."""
        return self.status.ended and not self.more


@dataclass(frozen=True, slots=True)
class LogSource:
    """The log of one run, narrowed to `types` if there are any."""

    database: Database
    run_id: UUID
    types: tuple[LogType, ...] = ()

    async def read(
        self, *, after: int, limit: int, written: Written | None = None, is_opening: bool = False
    ) -> Reading:
        """Read the first `limit` lines behind seq `after`, and what goes beyond `written` (None: no model output).

        Raises:
            NotFound: there is no such run, or it is somebody else's.
            LimitExceeded: `is_opening`, and its account has opened too many streams.
        """
        arguments: dict[str, Json] = {
            "p_run_id": str(self.run_id),
            "p_after": after,
            "p_limit": limit,
            "p_types": list[Json](self.types) or None,
            "p_written": None if written is None else _listed(written),
            "p_opening": is_opening,
        }
        return Reading.model_validate(await self.database.call("follow_run", arguments))


def _listed(written: Written) -> list[Json]:
    return [
        {"step_no": step_no, "attempt": attempt, "characters": characters}
        for (step_no, attempt), characters in written.items()
    ]
