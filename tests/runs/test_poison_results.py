"""What a step may leave behind: stored, stored cleaned, or refused with its size; never at the cost of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from shared.direct_database import DirectDatabase
from shared.runs.bounds import ARTIFACT_BYTES, INPUT_BYTES, RESULT_BYTES
from shared.runs.deltas import STEP_CHARS, TICK_CHARS, Deltas
from shared.runs.engine import Decision, Done, Failed, Finish, HumanRequest, Outcome, StepContext, Waiting
from shared.runs.models import (
    NewArtifact,
    NewLog,
    NewMessage,
    NewPlan,
    NewStep,
    Records,
    RunId,
    Step,
    StepError,
    StepResult,
)
from shared.runs.store import RunStore
from shared.runs.transitions import Delta
from tests.runs.engines import ListEngine, Progress, steps
from tests.runs.working import work_off, working
from tests.support.runs import Person, assert_books_balance, connect, log_lines, run_row, step_rows, until_status

MB10 = "x" * 10_000_000
DIRTY = "a\x00b\ud800c\udfffd"
CLEAN = "a\ufffdb\ufffdc\ufffdd"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["again"] = value
    return value


def output(value: Any) -> Outcome:
    return Done({"value": value})


def message(text: Any) -> Outcome:
    return Done(records=Records(messages=(NewMessage("tool", [{"type": "text", "text": text}]),)))


def artifact(text: str) -> Outcome:
    return Done(records=Records(artifacts=(NewArtifact("file.txt", text),)))


def plan(text: str) -> Outcome:
    return Done(records=Records(plans=(NewPlan(text, [{"id": text}], text),)))


def lines(*texts: str) -> Outcome:
    return Done(records=Records(logs=tuple(NewLog("info", text, {"text": text}) for text in texts)))


def error(text: Any, **details: Any) -> Outcome:
    return Failed(StepError("bad", text, details=details))


def question(text: str) -> Outcome:
    return Waiting(HumanRequest(text, options=(text,)))


async def outcomes(
    database: DirectDatabase, person: Person, database_url: str, make: Callable[[], Outcome]
) -> tuple[RunId, RunId]:
    """Perform the outcome in one run, and a harmless one in another whose result shares its call."""
    bad, good = await person.queue(input={"bad": True}), await person.queue()
    both = asyncio.Barrier(2)

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        await both.wait()
        return make() if ctx.run.input.get("bad") else Done({"key": step.key})

    await work_off(database, ListEngine(steps(1, credits_bound=10), perform))
    assert (await run_row(database_url, good))["status"] == "completed"
    await assert_books_balance(database_url, person.id)
    return bad, good


STORED = {
    "nul, surrogates": (DIRTY, CLEAN),
    "not a number": ([float("nan"), float("inf"), float("-inf")], [None, None, None]),
    "huge integers": ([2**63 - 1, -(2**63) + 1, 10**22, 10**400], [2**63 - 1, -(2**63) + 1, 10**22, None]),
    "dirty keys": ({DIRTY: 1}, {CLEAN: 1}),
    "deep, but not too deep": (nested(60), nested(60)),
    "a million characters": ("é" * 1_000_000, "é" * 1_000_000),
}


@pytest.mark.parametrize("name", STORED)
async def test_a_strange_output_is_stored_cleaned(
    database: DirectDatabase, person: Person, database_url: str, name: str
) -> None:
    value, stored = STORED[name]

    bad, _ = await outcomes(database, person, database_url, lambda: output(value))

    assert (await run_row(database_url, bad))["status"] == "completed"
    assert (await step_rows(database_url, bad))[0]["output"] == {"value": stored}


REFUSED = {
    "10 MB of output": (lambda: output(MB10), "result_too_large", RESULT_BYTES),
    "10 MB of numbers": (lambda: output([0.5] * 2_500_000), "result_too_large", RESULT_BYTES),
    "10 MB in a message": (lambda: message(MB10), "result_too_large", RESULT_BYTES),
    "10 MB in a plan": (lambda: plan(MB10), "result_too_large", RESULT_BYTES),
    "10 MB in a file": (lambda: artifact(MB10), "result_too_large", ARTIFACT_BYTES),
    "10 MB in a question": (lambda: question(MB10), "result_too_large", RESULT_BYTES),
    "a flood of lines": (lambda: lines(*["x" * 8000] * 1000), "result_too_large", RESULT_BYTES),
    "nested too deep": (lambda: output(nested(65)), "unstorable", 64),
    "nested deeper than any stack": (lambda: output(nested(100_000)), "unstorable", 64),
    "itself": (lambda: Done(itself()), "unstorable", 64),
    "keys that are no strings": (lambda: output({1: 2}), "unstorable", "int"),
    "an object": (lambda: output(object()), "unstorable", "object"),
    "bytes in a message": (lambda: message(b"x"), "unstorable", "bytes"),
    "no object at all": (lambda: Done([1]), "unstorable", "list"),  # type: ignore[arg-type]
    "a wait without end": (lambda: Waiting(float("nan")), "unstorable", "nan"),
    "nothing": (lambda: None, "internal", "unexpected"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_recorded_fails_its_step_alone_and_says_why(
    database: DirectDatabase, person: Person, database_url: str, name: str
) -> None:
    make, code, why = REFUSED[name]

    bad, _ = await outcomes(database, person, database_url, make)  # type: ignore[arg-type]

    row = await run_row(database_url, bad)
    assert (row["status"], row["error"]["code"]) == ("failed", code)
    assert str(why) in row["error"]["message"]
    assert (await step_rows(database_url, bad))[0]["status"] == "failed"


async def test_a_result_of_exactly_the_limit_is_kept_and_one_byte_more_is_not(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    most = RESULT_BYTES - len(json.dumps({"value": ""}, separators=(",", ":")))

    kept, _ = await outcomes(database, person, database_url, lambda: output("x" * most))
    refused, _ = await outcomes(database, person, database_url, lambda: output("x" * (most + 1)))

    assert len((await step_rows(database_url, kept))[0]["output"]["value"]) == most
    message = (await run_row(database_url, refused))["error"]["message"]
    assert f"{RESULT_BYTES + 1} bytes, and {RESULT_BYTES} is the most" in message


@pytest.mark.parametrize("name", ["message", "artifact", "plan", "lines", "error", "question"])
async def test_nul_and_surrogates_are_cleaned_wherever_a_step_writes(
    database: DirectDatabase, person: Person, database_url: str, name: str
) -> None:
    make: Any = globals()[name]

    bad, _ = await outcomes(database, person, database_url, lambda: make(DIRTY))

    async with connect(database_url) as connection:
        table = {
            "message": "agent_messages", "artifact": "agent_artifacts", "plan": "agent_plans",
            "lines": "agent_task_logs", "error": "agent_steps", "question": "human_requests",
        }[name]  # fmt: skip
        rows = await (
            await connection.execute(f"select to_jsonb(t)::text from public.{table} t where run_id = %s", [bad])
        ).fetchall()
    assert any(CLEAN in row[0] for row in rows)


async def test_long_lines_and_errors_are_cut_and_keep_their_run(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    logged, _ = await outcomes(database, person, database_url, lambda: lines(MB10))
    failed, _ = await outcomes(database, person, database_url, lambda: error(MB10, why=MB10, nan=float("nan")))
    odd, _ = await outcomes(database, person, database_url, lambda: error("no", why=object()))

    assert (await run_row(database_url, logged))["status"] == "completed"
    assert any(text.endswith("[truncated]") for _, _, text in await log_lines(database_url, logged))
    kept = (await run_row(database_url, failed))["error"]
    assert (kept["code"], len(kept["message"]), kept["details"]["truncated"]) == ("bad", 8192, True)
    assert (await run_row(database_url, odd))["error"]["details"] == {"unrecorded": "object is no JSON"}


async def test_an_attempt_whose_records_cannot_be_kept_is_tried_again_all_the_same(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()

    async def once(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        if step.attempt > 1:
            return Done()
        flood = Records(messages=(NewMessage("tool", [MB10]),))
        return Failed(StepError("busy", "Busy", retryable=True), flood, credits=4, retry_after_seconds=0.0)

    async with working(database, ListEngine(steps(1, credits_bound=10), once)):
        await until_status(database_url, run_id, "completed", "failed")

    row = await run_row(database_url, run_id)
    assert (row["status"], row["credits_spent"]) == ("completed", 4)


async def test_the_engine_sees_a_result_as_its_row_has_it(database: DirectDatabase, person: Person) -> None:
    """Else it would decide otherwise after a crash than before."""
    run_id = await person.queue()
    seen: list[Any] = []

    class Watching(ListEngine):
        def apply(self, state: Progress, result: StepResult) -> Progress:
            seen.append(result.output)
            return super().apply(state, result)

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step, ctx
        return output([DIRTY, float("nan"), 2**70])

    await work_off(database, Watching(steps(1), perform))

    view = await RunStore(database).load(run_id)
    assert view is not None
    assert seen[0] == view.results[0].output


@pytest.mark.parametrize(
    ("made", "code"), [({"text": "x" * INPUT_BYTES}, "result_too_large"), ({"text": object()}, "unstorable")]
)
async def test_a_decision_too_large_to_record_fails_its_run_alone(
    database: DirectDatabase, person: Person, database_url: str, made: Any, code: str
) -> None:
    class Talkative(ListEngine):
        def decide(self, state: Progress) -> Decision:
            return Finish({"all": MB10}) if state.results else super().decide(state)

    started, finished = await person.queue(), await person.queue(engine="other")
    starts = ListEngine([NewStep(key="s1", kind="test", name="Step 1", input=made)])
    finishes = Talkative(steps(1))
    await work_off(database, starts)
    finishes.name = "list"
    async with connect(database_url) as connection:
        await connection.execute("update public.agent_runs set engine = 'list' where id = %s", [finished])
    await work_off(database, finishes)

    row, other = await run_row(database_url, started), await run_row(database_url, finished)
    assert (row["status"], row["error"]["code"]) == ("failed", code)
    assert (other["status"], other["error"]["code"]) == ("failed", "result_too_large")
    assert (await step_rows(database_url, finished))[0]["status"] == "completed"


@pytest.mark.parametrize("raised", [SystemExit(1), asyncio.CancelledError(), RecursionError(), MemoryError()])
async def test_a_tool_that_ends_the_process_or_cancels_itself_fails_its_step_alone(
    database: DirectDatabase, person: Person, database_url: str, raised: BaseException
) -> None:
    def make() -> Outcome:
        raise raised

    bad, _ = await outcomes(database, person, database_url, make)

    assert (await run_row(database_url, bad))["error"]["code"] == "internal"


async def test_a_flood_of_model_output_costs_viewers_some_of_it_and_the_worker_no_memory(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    async def floods(step: Step, ctx: StepContext) -> Outcome:
        del step
        for _ in range(200):
            await ctx.delta(DIRTY * 10_000)
        return Done()

    run_id = await person.queue()
    await work_off(database, ListEngine(steps(1), floods))

    assert (await run_row(database_url, run_id))["status"] == "completed"
    async with connect(database_url) as connection:
        rows = await (
            await connection.execute("select octet_length(payload::text) from realtime.messages where event = 'delta'")
        ).fetchall()
    assert all(size < 250_000 for (size,) in rows)


async def test_pieces_of_model_output_are_joined_up_to_a_bound_and_never_over_a_gap() -> None:
    run_id = RunId(uuid4())
    deltas = Deltas()

    def add(offset: int, text: str) -> None:
        deltas.add(Delta(run_id, run_id, 1, 1, offset, text))

    add(0, "Hel")
    add(3, "lo")
    add(5, "x" * TICK_CHARS)
    add(5 + TICK_CHARS, "lost")
    first = deltas.take()
    add(9 + TICK_CHARS, "later")
    second = deltas.take()
    add(STEP_CHARS, "too late")

    assert [(one.offset, len(one.text)) for one in first] == [(0, TICK_CHARS)]
    assert [(one.offset, one.text) for one in second] == [(9 + TICK_CHARS, "later")]
    assert deltas.take() == []
