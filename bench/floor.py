"""Our own floor: the same `advance_runs` calls with the batches ready, by one connection, without an engine."""

from __future__ import annotations

from uuid import uuid4

import orjson
from psycopg import AsyncConnection

from bench.contender import Stopwatch, Taken, check, contend
from bench.work import LEASE_SECONDS, STEP_BOUND, STEP_COST, queue_runs

JsonRow = dict[str, object]


async def floor(url: str, *, runs: int, steps: int, at_a_time: int) -> Taken:
    """`at_a_time` runs advance in step with one another, one call a step of the group."""
    async with await AsyncConnection.connect(url, autocommit=True, prepare_threshold=None) as connection:
        await queue_runs(url, at_a_time)
        await _advance_group(connection, steps=1, at_a_time=at_a_time)
        await queue_runs(url, runs)

        watch = await Stopwatch.started(url)
        for _ in range(0, runs, at_a_time):
            await _advance_group(connection, steps=steps, at_a_time=at_a_time)
        taken = watch.stop()

    await check(
        url,
        "select count(*) from agent_steps where status = 'completed'",
        runs * steps + at_a_time,
    )
    return taken


async def _advance_group(connection: AsyncConnection, *, steps: int, at_a_time: int) -> None:
    claimed = await _call(
        connection, "select public.claim_runs('floor', %s, %s, array['bench'])", at_a_time, LEASE_SECONDS
    )
    held = [(view["run"]["id"], view["run"]["lease_id"], view["run"]["revision"]) for view in claimed["runs"]]
    for number in range(steps + 1):
        batch = _batch([(run_id, lease_id, revision + number) for run_id, lease_id, revision in held], number, steps)
        answer = await _call(connection, "select public.advance_runs(%s)", orjson.dumps(batch).decode())
        assert answer["won"] == len(held), answer


async def _call(connection: AsyncConnection, statement: str, *values: object):
    row = await (await connection.execute(statement, values)).fetchone()
    assert row is not None
    return row[0]


def _batch(held: list[tuple[str, str, int]], number: int, steps: int) -> JsonRow:
    """Finish step `number` (none at 0) and start the next one (none after the last) of every run."""
    batch: dict[str, object] = {"v": 1, "lease_seconds": LEASE_SECONDS}
    first, last = number == 0, number == steps
    places = range(1, len(held) + 1)
    batch["runs"] = [
        {
            "run_id": run_id,
            "lease_id": lease_id,
            "revision": revision,
            **({"status": "executing"} if first else {"status": "completed"} if last else {}),
            "new_steps": int(not last),
            "completed": not first,
            "in_flight": 0,
            "charge": 0 if first else STEP_COST,
            "released": 0 if first else STEP_BOUND,
            "wanted": 0 if last else STEP_BOUND,
            "lines": int(not first),
        }
        for run_id, lease_id, revision in held
    ]
    if not first:
        batch["finish"] = [_finish(at, number) for at in places]
        batch["logs"] = [{"at": at, "n": 1, "log_type": "info", "message": f"s{number}"} for at in places]
    if not last:
        batch["start"] = [_start(at, number + 1) for at in places]
    return batch


def _finish(at: int, number: int) -> JsonRow:
    return {
        "at": at,
        "step_no": number,
        "attempt": 1,
        "status": "completed",
        "output": {"ok": True},
        "credits": STEP_COST,
    }


def _start(at: int, number: int) -> JsonRow:
    return {
        "at": at,
        "step_no": number,
        "key": f"s{number}",
        "kind": "noop",
        "name": f"s{number}",
        "effect": "pure",
        "effect_key": str(uuid4()),
        "timeout_seconds": 120,
        "credits_bound": STEP_BOUND,
        "max_attempts": 3,
    }


if __name__ == "__main__":
    contend(floor)
