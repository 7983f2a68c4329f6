"""The run core's calls of SQL: domain verbs in, domain objects out. Only this module knows the wire form of a batch.

A batch is flat, one list a table, so that SQL writes it with one statement a table (see
`supabase/migrations/*_advance_runs.sql`, which documents every key).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Final, cast
from uuid import UUID

from shared.database import Database
from shared.runs.engine import HumanRequest
from shared.runs.models import (
    Artifact,
    Json,
    JsonObject,
    NewArtifact,
    NewLog,
    NewMessage,
    NewPlan,
    NewStep,
    Records,
    RunId,
    RunView,
    Step,
    StepError,
    StepResult,
    WaitsFor,
    read_steps,
    record,
)
from shared.runs.status import RunStatus, StepStatus
from shared.runs.text import bounded_metadata, bounded_text, storable

BATCH_VERSION: Final = 1
LOG_MESSAGE_BYTES: Final = 8192
LOG_METADATA_BYTES: Final = 16384


@record
class FinishStep:
    """What becomes of a running step: an end, another try (`PENDING`) or a wait (`RUNNING` with `waits_for`).

    `available_in` is in seconds; None with `RUNNING` means until the event. `bound` is what was reserved for it.
    """

    step_no: int
    attempt: int
    status: StepStatus
    output: JsonObject | None = None
    error: StepError | None = None
    credits: int = 0
    bound: int = 0
    failed: bool = False
    available_in: float | None = None
    waits_for: WaitsFor | None = None
    records: Records = field(default_factory=Records)
    request: HumanRequest | None = None


@record
class StartStep:
    """A step to start, or to start `again` after a wait for its next try."""

    step_no: int
    effect_key: UUID
    step: NewStep
    again: bool = False

    def recorded(self) -> Step:
        """The step as it stands in the database once the start is committed."""
        new = self.step
        return Step(
            step_no=self.step_no,
            key=new.key,
            kind=new.kind,
            name=new.name,
            status=StepStatus.RUNNING,
            attempt=1,
            failed_attempts=0,
            max_attempts=new.max_attempts,
            effect=new.effect,
            effect_key=self.effect_key,
            input=new.input,
            output=None,
            error=None,
            waits_for=None,
            due_in_seconds=0.0,
            timeout_seconds=new.timeout_seconds,
            credits_bound=new.credits_bound,
            phase=new.phase,
            finished_revision=None,
        )


@record
class TakenSnapshot:
    """An engine's state after the results of the advance that carries it, before that advance's starts.

    `step_count` counts the steps started by then, `open_steps` are those of them that have not ended. `state` is
    storable.
    """

    version: int
    step_count: int
    open_steps: tuple[int, ...]
    kept_steps: tuple[int, ...]
    state: JsonObject


@record
class Advance:
    """One run's transition, all or nothing: results, starts, log lines and the run's next status (None: unchanged).

    `logs` are the decision's; they are left out when its steps cannot be started for want of credits.
    """

    run_id: RunId
    lease_id: UUID
    revision: int
    finish: tuple[FinishStep, ...] = ()
    start: tuple[StartStep, ...] = ()
    logs: tuple[NewLog, ...] = ()
    status: RunStatus | None = None
    available_in: float | None = None
    output: JsonObject | None = None
    error: StepError | None = None
    in_flight: int = 0
    snapshot: TakenSnapshot | None = None


@record
class Advanced:
    """The answer to one `Advance`. When it did not win, only `lease_id` (the present holder's) means anything."""

    run_id: RunId
    won: bool
    revision: int
    lease_id: UUID | None
    status: RunStatus | None
    stop: bool = False
    pause: bool = False
    short: bool = False
    unsent: bool = False


@record
class Beat:
    """What a heartbeat tells about a run that is still held."""

    run_id: RunId
    lease_id: UUID
    revision: int
    stop: bool
    pause: bool


@record
class Claim:
    """Runs leased to the caller, and in how many seconds the next timer is due (None: no timer)."""

    views: tuple[RunView, ...]
    next_in_seconds: float | None
    swept: int


@record
class Delta:
    """A piece of model output, `offset` characters into the step's text."""

    run_id: RunId
    lease_id: UUID
    step_no: int
    attempt: int
    offset: int
    text: str


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
        answer = cast(
            "JsonObject", await self._database.call("advance_runs", {"p_batch": _batch(items, lease_seconds)})
        )
        special = {UUID(cast("str", row["run_id"])): row for row in cast("list[JsonObject]", answer["runs"])}
        unsent = {UUID(run_id) for run_id in cast("list[str]", answer["unsent"])}
        return {item.run_id: _advanced(item, special.get(item.run_id), unsent=item.run_id in unsent) for item in items}

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


def _advanced(item: Advance, special: JsonObject | None, *, unsent: bool) -> Advanced:
    """The answer to one item: as asked, unless the database says something special of it."""
    if special is None:
        leased = item.status is None or item.status.leased
        return Advanced(
            run_id=item.run_id,
            won=True,
            revision=item.revision + 1,
            lease_id=item.lease_id if leased else None,
            status=item.status,
            unsent=unsent,
        )
    lease_id = cast("str | None", special["lease_id"])
    status = cast("str | None", special["status"])
    return Advanced(
        run_id=item.run_id,
        won=bool(special["won"]),
        revision=cast("int | None", special["revision"]) or 0,
        lease_id=None if lease_id is None else UUID(lease_id),
        status=None if status is None else RunStatus(status),
        stop=bool(special.get("stop")),
        pause=bool(special.get("pause")),
        short=bool(special.get("short")),
        unsent=unsent,
    )


def _batch(items: Sequence[Advance], lease_seconds: float) -> JsonObject:
    """The wire form of these items. What is not there is null or the default: a batch is lean."""
    batch: defaultdict[str, list[Json]] = defaultdict(list)
    for item in items:
        run_id = str(item.run_id)
        lines = len(item.logs)
        for finish in item.finish:
            batch["finish"].append(_finish(finish, run_id))
            if finish.records.logs:
                lines += len(finish.records.logs)
                batch["logs"] += [_log(log, run_id, of_decision=False) for log in finish.records.logs]
            _append_records(batch, finish, run_id)
        for start in item.start:
            batch["restart" if start.again else "start"].append(_start(start, run_id))
        if item.logs:
            batch["logs"] += [_log(log, run_id, of_decision=True) for log in item.logs]
        if item.snapshot is not None:
            batch["snapshots"].append(_snapshot(item.snapshot, run_id))
        batch["runs"].append(_run(item, run_id, lines=lines))
    return {"v": BATCH_VERSION, "lease_seconds": lease_seconds, "runs": [], **batch}


def _run(item: Advance, run_id: str, *, lines: int) -> JsonObject:
    charge = released = wanted = new_steps = 0
    completed = False
    for finish in item.finish:
        charge += finish.credits
        released += finish.bound
        completed |= finish.status is StepStatus.COMPLETED
    for start in item.start:
        wanted += start.step.credits_bound
        new_steps += not start.again
    row: dict[str, Json] = {
        "run_id": run_id,
        "lease_id": str(item.lease_id),
        "revision": item.revision,
        "new_steps": new_steps,
        "completed": completed,
        "in_flight": item.in_flight,
        "charge": charge,
        "released": released,
        "wanted": wanted,
        "lines": lines,
    }
    if item.logs:
        row["decision_lines"] = len(item.logs)
    if item.status is not None:
        row["status"] = item.status
    if item.available_in is not None:
        row["available_in"] = item.available_in
    if item.output is not None:
        row["output"] = storable(item.output)
    if item.error is not None:
        row["error"] = storable(item.error.to_json())
    return row


def _finish(finish: FinishStep, run_id: str) -> JsonObject:
    row: dict[str, Json] = {
        "run_id": run_id,
        "step_no": finish.step_no,
        "attempt": finish.attempt,
        "status": finish.status,
        "credits": finish.credits,
    }
    if finish.output is not None:
        row["output"] = storable(finish.output)
    if finish.error is not None:
        row["error"] = storable(finish.error.to_json())
    if finish.failed:
        row["failed"] = True
    if finish.available_in is not None:
        row["available_in"] = finish.available_in
    if finish.waits_for is not None:
        row["waits_for"] = finish.waits_for
    return row


def _start(start: StartStep, run_id: str) -> JsonObject:
    step = start.step
    if start.again:
        return {"run_id": run_id, "step_no": start.step_no, "credits_bound": step.credits_bound}
    row: dict[str, Json] = {
        "run_id": run_id,
        "step_no": start.step_no,
        "key": step.key,
        "kind": step.kind,
        "name": storable(step.name),
        "effect": step.effect,
        "effect_key": str(start.effect_key),
        "timeout_seconds": step.timeout_seconds,
        "credits_bound": step.credits_bound,
        "max_attempts": step.max_attempts,
    }
    if step.phase is not None:
        row["phase"] = step.phase
    if step.input:
        row["input"] = storable(step.input)
    return row


def _append_records(batch: defaultdict[str, list[Json]], finish: FinishStep, run_id: str) -> None:
    records = finish.records
    of_step: JsonObject = {"run_id": run_id, "step_no": finish.step_no}
    if records.messages:
        batch["messages"] += [of_step | _message(message) for message in records.messages]
    if records.artifacts:
        batch["artifacts"] += [of_step | _artifact(artifact) for artifact in records.artifacts]
    if records.plans:
        batch["plans"] += [of_step | _plan(plan) for plan in records.plans]
    if finish.request is not None:
        batch["requests"].append(of_step | _request(finish.request))


def _message(message: NewMessage) -> JsonObject:
    return {"role": message.role, "content": storable(message.content)}


def _artifact(artifact: NewArtifact) -> JsonObject:
    return {
        "name": storable(artifact.name),
        "content": storable(artifact.content),
        "content_type": artifact.content_type,
    }


def _plan(plan: NewPlan) -> JsonObject:
    return {"goal": storable(plan.goal), "phases": storable(plan.phases), "reason": storable(plan.reason)}


def _request(request: HumanRequest) -> JsonObject:
    options = [storable(option) for option in request.options]
    return {"kind": request.kind, "prompt": storable(request.prompt), "options": list[Json](options)}


def _snapshot(snapshot: TakenSnapshot, run_id: str) -> JsonObject:
    return {
        "run_id": run_id,
        "version": snapshot.version,
        "step_count": snapshot.step_count,
        "open_steps": list[Json](snapshot.open_steps),
        "kept_steps": list[Json](snapshot.kept_steps),
        "state": snapshot.state,
    }


def _log(log: NewLog, run_id: str, *, of_decision: bool) -> JsonObject:
    row: dict[str, Json] = {
        "run_id": run_id,
        "log_type": log.log_type,
        "message": bounded_text(log.message, LOG_MESSAGE_BYTES),
    }
    if log.metadata:
        row["metadata"] = bounded_metadata(log.metadata, LOG_METADATA_BYTES)
    if of_decision:
        row["of_decision"] = True
    return row
