"""The run core's calls of SQL: domain verbs in, domain objects out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast
from uuid import UUID

from shared.database import Database
from shared.runs.batch import read_answer, to_batch
from shared.runs.models import Artifact, Json, JsonObject, RunId, RunView, StepResult, read_steps
from shared.runs.text import storable
from shared.runs.transitions import Advance, Advanced, Beat, Claim, Delta


class RunStore:
    """Worker's side of the run core, over either wire."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, *, owner: str, limit: int, lease_seconds: float, engines: Sequence[str]) -> Claim:
        """Lease up to `limit` (at most 100) due runs of these engines to `owner`, expired leases first."""
        answer = cast(
            "JsonObject",
            await self._database.call(
                "claim_runs",
                {
                    "p_owner": owner,
                    "p_limit": limit,
                    "p_lease_seconds": lease_seconds,
                    "p_engines": list[Json](engines),
                },
            ),
        )
        next_in = cast("float | None", answer["next_in_seconds"])
        return Claim(
            views=tuple(RunView.from_row(row) for row in cast("list[JsonObject]", answer["runs"])),
            next_in_seconds=None if next_in is None else float(next_in),
            swept=cast("int", answer["swept"]),
        )

    async def advance(self, items: Sequence[Advance], *, lease_seconds: float) -> dict[RunId, Advanced]:
        """Commit a batch, at most one item a run. Every item has its answer, won or lost."""
        return read_answer(items, await self.advance_batch(to_batch(items, lease_seconds=lease_seconds)))

    async def advance_batch(self, batch: JsonObject) -> JsonObject:
        """Commit a batch that is written already; see `shared.runs.batch`."""
        return cast("JsonObject", await self._database.call("advance_runs", {"p_batch": batch}))

    async def heartbeat(self, leases: Mapping[RunId, UUID], *, lease_seconds: float) -> list[Beat]:
        """Extend these leases. A run that is missing in the answer was being advanced just now, or is lost."""
        if not leases:
            return []
        answer = await self._database.call(
            "heartbeat_runs",
            {
                "p_leases": [{"run_id": str(run_id), "lease_id": str(lease)} for run_id, lease in leases.items()],
                "p_lease_seconds": lease_seconds,
            },
        )
        return [
            Beat(
                run_id=RunId(UUID(cast("str", row["run_id"]))),
                lease_id=UUID(cast("str", row["lease_id"])),
                revision=cast("int", row["revision"]),
                stop=bool(row["stop"]),
                pause=bool(row["pause"]),
            )
            for row in cast("list[JsonObject]", answer)
        ]

    async def load(self, run_id: RunId, *, whole: bool = False) -> RunView | None:
        """Read one run with its records, `whole` without a snapshot; None when there is no such run."""
        answer = await self._database.call("load_run", {"p_run_id": str(run_id), "p_whole": whole})
        return None if answer is None else RunView.from_row(cast("JsonObject", answer))

    async def results(self, run_id: RunId, step_nos: Sequence[int]) -> dict[int, StepResult]:
        """Load the results of these steps; one that has not ended is absent."""
        answer = await self._database.call(
            "load_results", {"p_run_id": str(run_id), "p_step_nos": list[Json](step_nos)}
        )
        ended, _ = read_steps(cast("JsonObject", answer))
        return {result.step.step_no: result for result in ended}

    async def artifacts(self, run_id: RunId, names: Sequence[str]) -> dict[str, Artifact]:
        """Load the newest artifact of each name; a name that does not exist is absent."""
        answer = await self._database.call("load_artifacts", {"p_run_id": str(run_id), "p_names": list[Json](names)})
        return {
            cast("str", row["name"]): Artifact(
                cast("str", row["name"]), cast("str", row["content"]), cast("str", row["content_type"])
            )
            for row in cast("list[JsonObject]", answer)
        }

    async def flush_logs(self, run_ids: Sequence[RunId]) -> None:
        """Broadcast the log lines of these runs that were held back by the rate limit."""
        if not run_ids:
            return
        await self._database.call("flush_logs", {"p_run_ids": [str(run_id) for run_id in run_ids]})

    async def publish(self, deltas: Sequence[Delta]) -> None:
        """Keep and broadcast model output. A delta of a run that is no longer held is dropped."""
        if not deltas:
            return
        await self._database.call(
            "publish_deltas",
            {
                "p_deltas": [
                    {
                        "run_id": str(delta.run_id),
                        "lease_id": str(delta.lease_id),
                        "step_no": delta.step_no,
                        "attempt": delta.attempt,
                        "offset": delta.offset,
                        "text": storable(delta.text),
                    }
                    for delta in deltas
                ]
            },
        )
