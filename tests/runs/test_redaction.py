"""What a step may leak, it does not: every place that a run writes to, over the real vault and the real database."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any
from uuid import UUID

import pytest

from shared.direct_database import DirectDatabase
from shared.redaction import MARK
from shared.runs.engine import (
    Decision,
    Done,
    Fail,
    Failed,
    Finish,
    HumanRequest,
    Outcome,
    StartSteps,
    StepContext,
    Waiting,
)
from shared.runs.models import NewArtifact, NewLog, NewMessage, NewPlan, NewStep, Records, Step, StepError
from shared.runs.store import RunStore
from shared.runs.transitions import Delta
from shared.runs.worker import Worker
from shared.vault.opening import Vault
from tests.runs.engines import ListEngine, Perform, Progress, steps
from tests.runs.working import QUICK
from tests.support.canaries import canary, leaks_in
from tests.support.runs import Person, connect, run_row, step_rows
from tests.vault.people import add_credential, ring

KEYS = ring(1)
TABLES = (
    "agent_runs", "agent_steps", "agent_messages", "agent_artifacts", "agent_plans", "agent_task_logs",
    "human_requests",
)  # fmt: skip


async def work(database: DirectDatabase, engine: ListEngine) -> Worker:
    """Work until nothing is due, with a vault."""
    worker = Worker(RunStore(database), {"list": engine}, options=QUICK, vault=Vault(database, KEYS))
    await worker.run(until_idle=True)
    return worker


async def queued_with(person: Person, key: str) -> UUID:
    """A queued run whose steps may open this key."""
    credential_id = await add_credential(person, KEYS, api_key=key)
    return await person.queue(credentials={"openai": str(credential_id)})


async def written(url: str, run_id: UUID) -> str:
    """Everything that the database holds of a run, as text."""
    async with connect(url) as connection:
        found: list[Any] = []
        for table in TABLES:
            column = "id" if table == "agent_runs" else "run_id"
            cursor = await connection.execute(
                f"select coalesce(jsonb_agg(to_jsonb(t)), '[]') from public.{table} t where {column} = %s", [run_id]
            )
            found += await cursor.fetchone() or ()
    return json.dumps(found, ensure_ascii=False)


def forms_of(key: str) -> str:
    """A text that a careless program might have made of a key."""
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    return f"{key} {key[::-1]} {key.encode().hex()} Basic {basic} {key[:20]}\n{key[20:]} {json.dumps([key])}"


def leaky(*, fails: bool = False) -> Perform:
    """A step that writes its key wherever a step can write."""

    async def perform(step: Step, ctx: StepContext) -> Outcome:
        del step
        async with ctx.open_credential("openai") as credential:
            text = forms_of(credential.fields["api_key"].reveal())
        records = Records(
            logs=(NewLog("info", f"Called with {text}", {"request": {"text": text}}),),
            messages=(NewMessage("assistant", [{"type": "text", "text": text}]),),
            artifacts=(NewArtifact("notes.txt", text),),
            plans=(NewPlan(text, [{"objective": text}], text),),
        )
        if fails:
            return Failed(StepError("refused", f"The provider said: {text}", details={"body": text}), records)
        return Done({"answer": text, "deep": [{"a": text}]}, records)

    return perform


async def test_nothing_that_a_step_leaves_behind_shows_what_it_opened(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await queued_with(person, canary())

    await work(database, ListEngine(steps(1), leaky()))

    rows = await written(database_url, run_id)
    assert (await run_row(database_url, run_id))["status"] == "completed"
    assert rows.count(MARK) == 9 * 6  # nine places, and six forms
    assert leaks_in(rows) == []


async def test_nothing_that_a_failure_tells_shows_what_it_opened(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await queued_with(person, canary())

    await work(database, ListEngine(steps(1), leaky(fails=True)))

    row = await run_row(database_url, run_id)
    assert row["status"] == "failed"
    assert row["error"]["message"] == f'The provider said: {MARK} {MARK} {MARK} Basic dXNlcjp{MARK} {MARK} ["{MARK}"]'
    assert leaks_in(await written(database_url, run_id)) == []


async def test_a_question_to_a_person_shows_no_key(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await queued_with(person, canary())

    async def ask(step: Step, ctx: StepContext) -> Outcome:
        del step
        async with ctx.open_credential("openai") as credential:
            key = credential.fields["api_key"].reveal()
        return Waiting(HumanRequest(f"Is {key} right?", "approval", (f"Yes, {key}", "No")))

    await work(database, ListEngine(steps(1), ask))

    rows = await written(database_url, run_id)
    assert f"Is {MARK} right?" in rows
    assert leaks_in(rows) == []


async def test_what_an_engine_decides_on_is_what_the_rows_say(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await queued_with(person, canary())
    seen: list[Any] = []

    class Watching(ListEngine):
        def apply(self, state: Progress, result: Any) -> Progress:
            seen.append((result.step.output, [message.content for message in result.messages]))
            return super().apply(state, result)

    await work(database, Watching(steps(1), leaky()))

    rows = await step_rows(database_url, run_id)
    assert seen[0][0] == rows[0]["output"]
    assert leaks_in(repr(seen)) == []


async def test_a_decision_shows_no_key_either(database: DirectDatabase, person: Person, database_url: str) -> None:
    """An engine's state may hold what its steps saw: a tool that it shares with them, say."""
    run_id = await queued_with(person, canary())
    kept: list[str] = []

    async def keep(step: Step, ctx: StepContext) -> Outcome:
        async with ctx.open_credential("openai") as credential:
            kept.append(credential.fields["api_key"].reveal())
        return Done()

    class Careless(ListEngine):
        def decide(self, state: Progress) -> Decision:
            if len(state.results) < 1:
                return super().decide(state)
            line = NewLog("info", f"Used {kept[0]}")
            if len(state.known) < 2:
                return StartSteps((NewStep("s2", "test", f"Use {kept[0]}", {"key": kept[0]}),), logs=(line,))
            return Finish({"key": kept[0]}, (line,)) if len(state.results) == 2 else super().decide(state)

    await work(database, Careless(steps(2), keep))

    rows = await written(database_url, run_id)
    assert (await run_row(database_url, run_id))["output"] == {"key": MARK}
    assert f"Use {MARK}" in rows
    assert leaks_in(rows) == []


async def test_a_decision_to_fail_shows_no_key(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await queued_with(person, canary())
    kept: list[str] = []

    async def keep(step: Step, ctx: StepContext) -> Outcome:
        async with ctx.open_credential("openai") as credential:
            kept.append(credential.fields["api_key"].reveal())
        return Done()

    class Careless(ListEngine):
        def decide(self, state: Progress) -> Decision:
            return Fail(StepError("odd", f"Not with {kept[0]}")) if state.results else super().decide(state)

    await work(database, Careless(steps(1), keep))

    assert (await run_row(database_url, run_id))["error"]["message"] == f"Not with {MARK}"


class Recording(RunStore):
    """Keeps what is published."""

    def __init__(self, database: DirectDatabase) -> None:
        super().__init__(database)
        self.published: list[Delta] = []

    async def publish(self, deltas: Any) -> None:
        self.published += deltas
        await super().publish(deltas)


async def test_model_output_shows_no_key_however_it_is_cut(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    await queued_with(person, canary())
    texts: list[str] = []

    async def talk(step: Step, ctx: StepContext) -> Outcome:
        async with ctx.open_credential("openai") as credential:
            text = f"Hello, your key is {credential.fields['api_key'].reveal()} and it works. Bye now"
        texts.append(text)
        for letter in text:
            await ctx.delta(letter)
        return Done({"text": text})

    store = Recording(database)
    worker = Worker(store, {"list": ListEngine(steps(1), talk)}, options=QUICK, vault=Vault(database, KEYS))
    await worker.run(until_idle=True)

    shown = "".join(delta.text for delta in store.published)
    assert shown == f"Hello, your key is {MARK} and it works. Bye now"
    assert [delta.offset for delta in store.published] == [
        sum(len(before.text) for before in store.published[:number]) for number in range(len(store.published))
    ]


async def test_a_crash_that_quotes_the_key_tells_nobody(
    database: DirectDatabase, person: Person, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    from shared.logs import _Json, _Text

    run_id = await queued_with(person, canary())
    lines: list[str] = []

    class Written(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.extend((_Text().format(record), _Json().format(record)))

    async def crash(step: Step, ctx: StepContext) -> Outcome:
        async with ctx.open_credential("openai") as credential:
            raise RuntimeError(f"GET https://example.com/?k={credential.fields['api_key'].reveal()} failed")

    handler = Written()
    logging.getLogger().addHandler(handler)
    try:
        await work(database, ListEngine(steps(1, max_attempts=1), crash))
    finally:
        logging.getLogger().removeHandler(handler)

    crashed = [line for line in lines if "step.crashed" in line]
    assert len(crashed) == 2
    assert all("RuntimeError" in line and MARK in line for line in crashed)
    assert leaks_in("\n".join([*lines, caplog.text])) == []
    assert leaks_in(await written(database_url, run_id)) == []


async def test_a_key_opened_by_one_step_is_hidden_in_what_the_next_one_writes(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await queued_with(person, canary())
    kept: list[str] = []

    async def first_opens(step: Step, ctx: StepContext) -> Outcome:
        if step.step_no == 1:
            async with ctx.open_credential("openai") as credential:
                kept.append(credential.fields["api_key"].reveal())
        return Done({"text": f"It was {kept[0]}"})

    await work(database, ListEngine(steps(2), first_opens))

    assert [step["output"] for step in await step_rows(database_url, run_id)] == [{"text": f"It was {MARK}"}] * 2


async def test_a_step_without_a_credential_fails_clearly_and_once(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    engine = ListEngine(steps(1), leaky())

    await work(database, engine)

    error = (await run_row(database_url, run_id))["error"]
    assert (error["code"], error["retryable"]) == ("credential_missing", False)
    assert len(engine.performed) == 1


async def test_a_deleted_credential_fails_the_next_step(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    credential_id = await add_credential(person, KEYS, api_key=canary())
    run_id = await person.queue(credentials={"openai": str(credential_id)})

    async def use(step: Step, ctx: StepContext) -> Outcome:
        async with ctx.open_credential("openai"):
            if step.step_no == 1:
                await person.call("delete_credential", credential_id)
        return Done()

    await work(database, ListEngine(steps(2), use))

    rows = await step_rows(database_url, run_id)
    assert [step["status"] for step in rows] == ["completed", "failed"]
    assert rows[1]["error"]["code"] == "credential_missing"


async def test_a_worker_with_another_key_says_that_the_vault_is_sealed(
    database: DirectDatabase, person: Person, database_url: str
) -> None:
    run_id = await queued_with(person, canary())
    engine = ListEngine(steps(1), leaky())

    worker = Worker(RunStore(database), {"list": engine}, options=QUICK, vault=Vault(database, ring(2)))
    await worker.run(until_idle=True)

    error = (await run_row(database_url, run_id))["error"]
    assert (error["code"], error["retryable"]) == ("vault_sealed", False)


async def test_a_worker_without_keys_says_so(database: DirectDatabase, person: Person, database_url: str) -> None:
    run_id = await queued_with(person, canary())

    worker = Worker(RunStore(database), {"list": ListEngine(steps(1), leaky())}, options=QUICK)
    await worker.run(until_idle=True)

    error = (await run_row(database_url, run_id))["error"]
    assert (error["code"], error["retryable"]) == ("no_vault", False)


async def test_a_credential_is_empty_after_its_block(database: DirectDatabase, person: Person) -> None:
    await queued_with(person, canary())
    left: list[int] = []

    async def use(step: Step, ctx: StepContext) -> Outcome:
        async with ctx.open_credential("openai") as credential:
            left.append(len(credential.fields))
        left.append(len(credential.fields))
        return Done()

    await work(database, ListEngine(steps(1), use))

    assert left == [1, 0]
