"""The wire form of a batch of advances, and of its answer.

A batch is flat, one list a table, so that SQL writes it with one statement a table (see
`supabase/migrations/*_advance_runs.sql`, which documents every key).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, cast
from uuid import UUID

from shared.runs.engine import HumanRequest
from shared.runs.models import Json, JsonObject, NewArtifact, NewLog, NewMessage, NewPlan, RunId
from shared.runs.status import RunStatus, StepStatus
from shared.runs.text import bounded_metadata, bounded_text, storable
from shared.runs.transitions import Advance, Advanced, FinishStep, StartStep, TakenSnapshot

BATCH_VERSION: Final = 1
LOG_MESSAGE_BYTES: Final = 8192
LOG_METADATA_BYTES: Final = 16384


def to_batch(items: Sequence[Advance], *, lease_seconds: float) -> JsonObject:
    """The wire form of these items, in the order of their runs. What is not there is null or the default."""
    batch: defaultdict[str, list[Json]] = defaultdict(list)
    runs: list[Json] = []
    for at, item in enumerate(sorted(items, key=_order), start=1):
        run_id = str(item.run_id)
        lines = 0
        for log in item.said:
            lines += 1
            batch["logs"].append(_log(log, at, lines))
        for finish in item.finish:
            batch["finish"].append(_finish(finish, at))
            for log in finish.records.logs:
                lines += 1
                batch["logs"].append(_log(log, at, lines))
            _append_records(batch, finish, run_id)
        for start in item.start:
            if start.again:
                batch["restart"].append(_restart(start, at))
            else:
                batch["start"].append(_start(start, at))
        for log in item.logs:
            lines += 1
            batch["logs"].append({**_log(log, at, lines), "of_decision": True})
        if item.snapshot is not None:
            batch["snapshots"].append(_snapshot(item.snapshot, run_id))
        runs.append(_run(item, run_id, lines=lines))
    return {"v": BATCH_VERSION, "lease_seconds": lease_seconds, "runs": runs, **batch}


def _order(item: Advance) -> int:
    return item.run_id.int


def read_answer(items: Sequence[Advance], answer: JsonObject) -> dict[RunId, Advanced]:
    """What became of each item: as asked, unless the database says something special of it."""
    special = {UUID(cast("str", row["run_id"])): row for row in cast("list[JsonObject]", answer["runs"])}
    unsent = set(cast("list[str]", answer["unsent"]))
    return {
        item.run_id: _advanced(
            item, special.get(item.run_id) if special else None, unsent=bool(unsent) and str(item.run_id) in unsent
        )
        for item in items
    }


def _advanced(item: Advance, special: JsonObject | None, *, unsent: bool) -> Advanced:
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


def _finish(finish: FinishStep, at: int) -> JsonObject:
    row: dict[str, Json] = {
        "at": at,
        "step_no": finish.step_no,
        "attempt": finish.attempt,
        "status": finish.status,
        "credits": finish.credits,
    }
    if finish.output is not None:
        row["output"] = finish.output if finish.size is not None else storable(finish.output)
    if finish.error is not None:
        row["error"] = storable(finish.error.to_json())
    if finish.failed:
        row["failed"] = True
    if finish.available_in is not None:
        row["available_in"] = finish.available_in
    if finish.waits_for is not None:
        row["waits_for"] = finish.waits_for
    return row


def _restart(start: StartStep, at: int) -> JsonObject:
    return {"at": at, "step_no": start.step_no, "credits_bound": start.step.credits_bound}


def _start(start: StartStep, at: int) -> JsonObject:
    step = start.step
    row: dict[str, Json] = {
        "at": at,
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
    if not (records.messages or records.artifacts or records.plans or finish.request or finish.event):
        return
    of_step: JsonObject = {"run_id": run_id, "step_no": finish.step_no}
    if records.messages:
        batch["messages"] += [of_step | _message(message) for message in records.messages]
    if records.artifacts:
        batch["artifacts"] += [of_step | _artifact(artifact) for artifact in records.artifacts]
    if records.plans:
        batch["plans"] += [of_step | _plan(plan) for plan in records.plans]
    if finish.request is not None:
        batch["requests"].append(of_step | _request(finish.request))
    if finish.event is not None:
        batch["events"].append(of_step | {"token_hash": finish.event.token_hash})


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


def _log(log: NewLog, at: int, number: int) -> dict[str, Json]:
    row: dict[str, Json] = {
        "at": at,
        "n": number,
        "log_type": log.log_type,
        "message": bounded_text(log.message, LOG_MESSAGE_BYTES),
    }
    if log.metadata:
        row["metadata"] = bounded_metadata(log.metadata, LOG_METADATA_BYTES)
    return row
