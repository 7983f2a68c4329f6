"""A run's log lines reach its people's clients while it goes: every line once and in order, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from realtime import RealtimeSubscribeStates
from supabase import AsyncClient

from shared.direct_database import DirectDatabase
from shared.runs.engine import Done, Outcome, StepContext
from shared.runs.models import NewLog, Records, Step
from shared.runs.store import RunStore
from shared.runs.wake import ListenWake
from shared.runs.worker import Worker
from tests.runs.engines import ListEngine, steps
from tests.support.node import run_script
from tests.support.runs import log_lines, until, until_status
from tests.support.stack import Person, Stack

STEPS = 12


class Ear:
    """What one client heard of one run, by both ways."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.ready = False
        self.changes: list[tuple[int, str]] = []
        self.broadcasts: list[tuple[int, str]] = []
        self.statuses: list[str] = []

    async def listen(self, client: AsyncClient, token: str, run_id: str) -> None:
        """Join the run's private topic with a subscription to its rows."""
        await client.realtime.set_auth(token)
        channel = client.channel(f"run:{run_id}", {"config": {"private": True}})  # type: ignore[typeddict-item]
        channel.on_broadcast("log", self._on_broadcast)
        channel.on_postgres_changes(
            "INSERT", self._on_change, schema="public", table="agent_task_logs", filter=f"run_id=eq.{run_id}"
        )
        channel.on_system(self._on_system)
        await channel.subscribe(self._on_state)
        await until(self._has_answer)

    async def _has_answer(self) -> bool:
        return self.ready or any(state != RealtimeSubscribeStates.SUBSCRIBED for state in self.states)

    def _on_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        del error
        self.states.append(state)

    def _on_system(self, payload: Any) -> None:
        self.ready |= payload.message == "Subscribed to PostgreSQL"

    def _on_change(self, payload: dict[str, Any]) -> None:
        record = payload["data"]["record"]
        self.changes.append((record["seq"], record["message"]))

    def _on_broadcast(self, message: dict[str, Any]) -> None:
        payload = message["payload"]
        self.statuses.append(payload["status"])
        self.broadcasts += [(line["seq"], line["message"]) for line in payload["lines"]]


@asynccontextmanager
async def worker_on(stack: Stack) -> AsyncGenerator[None]:
    """A live worker whose steps each write two lines."""

    async def speak(step: Step, ctx: StepContext) -> Outcome:
        del ctx
        lines = (NewLog("info", f"{step.key} begins"), NewLog("success", f"{step.key} ends", {"step": step.step_no}))
        return Done(records=Records(logs=lines))

    async with DirectDatabase(stack.database_url) as database:
        wake = ListenWake(stack.database_url)
        worker = Worker(RunStore(database), {"list": ListEngine(steps(STEPS), speak)}, wake=wake)
        task = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await task


async def new_run(person: Person) -> str:
    answer = await person.client.rpc("create_run", {"p_request": {"engine": "list", "input": {}}}).execute()
    return str(answer.data["run_id"])


def session_of(person: Person) -> str:
    tokens = {"access_token": person.access_token, "refresh_token": person.session.refresh_token}
    return json.dumps(tokens)


async def start(person: Person, run_id: str) -> None:
    await person.client.rpc("start_run", {"p_run_id": run_id}).execute()


async def test_supabase_py_gets_every_line_once_and_in_order_by_both_ways(stack: Stack) -> None:
    person = await stack.sign_up()
    run_id = await new_run(person)
    ear = Ear()
    await ear.listen(person.client, person.access_token, run_id)

    async with worker_on(stack):
        await start(person, run_id)
        await until_status(stack.database_url, UUID(run_id), "completed")
        written = [(seq, message) for seq, _, message in await log_lines(stack.database_url, UUID(run_id))]
        await until(lambda: _equal(ear.broadcasts, written))
        await until(lambda: _equal(ear.changes, written))

    assert len(written) == 2 * STEPS + 4
    assert ear.statuses[-1] == "completed"


async def test_another_user_gets_none(stack: Stack) -> None:
    """Non-vacuous: the owner hears all of it beside him."""
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    run_id = await new_run(owner)
    ear, curious = Ear(), Ear()
    await ear.listen(owner.client, owner.access_token, run_id)
    await curious.listen(stranger.client, stranger.access_token, run_id)
    bystander = Ear()
    rows = stranger.client.channel("rows")
    rows.on_postgres_changes("INSERT", bystander._on_change, schema="public", table="agent_task_logs")
    rows.on_system(bystander._on_system)
    await rows.subscribe(bystander._on_state)
    await until(bystander._has_answer)

    async with worker_on(stack):
        await start(owner, run_id)
        await until_status(stack.database_url, UUID(run_id), "completed")
        count = len(await log_lines(stack.database_url, UUID(run_id)))
        await until(lambda: _long(ear.changes, count))
        await until(lambda: _long(ear.broadcasts, count))

    assert RealtimeSubscribeStates.CHANNEL_ERROR in curious.states
    assert (curious.changes, curious.broadcasts, bystander.changes) == ([], [], [])
    assert bystander.ready


@pytest.mark.parametrize("listener", ["owner", "stranger"])
async def test_supabase_js_gets_every_line_once_and_in_order_and_a_stranger_none(stack: Stack, listener: str) -> None:
    owner, stranger = await stack.sign_up(), await stack.sign_up()
    run_id = await new_run(owner)
    hearer = owner if listener == "owner" else stranger

    async with worker_on(stack):
        heard = await run_script(
            "live.mjs",
            stack,
            RUN_ID=run_id,
            LISTENER_SESSION=session_of(hearer),
            OWNER_SESSION=session_of(owner),
        )

    written = [seq for seq, _, _ in await log_lines(stack.database_url, UUID(run_id))]
    assert written == list(range(1, 2 * STEPS + 5))
    assert heard["changes"] == (written if listener == "owner" else [])
    assert heard["broadcasts"] == (written if listener == "owner" else [])
    assert heard["joined"] is (listener == "owner")


async def _equal(heard: list[tuple[int, str]], written: list[tuple[int, str]]) -> bool:
    return heard == written


async def _long(heard: list[tuple[int, str]], count: int) -> bool:
    return len(heard) == count
