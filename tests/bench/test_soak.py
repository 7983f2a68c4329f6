"""The soak's account: it finds nothing where all is well, and finds every kind of damage."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from uuid import uuid4

import httpx
import psycopg
import pytest_asyncio

from bench.soak.engine import SoakEngine
from bench.soak.outside import Outside
from bench.soak.people import Told
from bench.soak.plan import PlannedStep, RunPlan, draw
from bench.soak.verify import verify
from shared.direct_database import DirectDatabase
from shared.runs.store import RunStore
from shared.runs.worker import Worker
from tests.support.runs import new_person

PLAN = RunPlan(
    "plain",
    seed=7,
    width=2,
    steps=(
        PlannedStep("s1", "compute"),
        PlannedStep("s2", "send"),
        PlannedStep("s3", "think"),
        PlannedStep("s4", "look_up"),
    ),
)


class AtRest:
    """A database in which two runs have completed, what people were told of them, and what the outside counted."""

    def __init__(self, url: str, told: Told, outside: Outside) -> None:
        self.url = url
        self.told = told
        self.outside = outside

    def broken(self, damage: str | None = None) -> set[str]:
        """Sentences that do not hold, after this damage was done and before it is undone."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")  # no guard keeps us from it
            with connection.transaction(force_rollback=True):
                if damage is not None:
                    assert connection.execute(damage).rowcount > 0
                account = verify(connection, self.told, self.outside.calls)
                return {verdict.sentence for verdict in account.verdicts if verdict.broken}


@pytest_asyncio.fixture
async def at_rest(database_url: str) -> AsyncGenerator[AtRest]:
    told, outside = Told(), Outside()
    person = await new_person(database_url)
    for _ in range(2):
        told.created[await person.queue(engine="soak", input=PLAN.to_json())] = PLAN
    transport = httpx.ASGITransport(outside.app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://outside") as client,
        DirectDatabase(database_url) as database,
    ):
        await Worker(RunStore(database), {"soak": SoakEngine(client)}).run(until_idle=True)
    yield AtRest(database_url, told, outside)


A_RUN = "(select id from agent_runs order by id limit 1)"

DAMAGES = {
    "Nothing is stuck": f"update agent_runs set status = 'queued', finished_at = null where id = {A_RUN}",
    "Each run ended once": "insert into agent_task_logs (run_id, seq, account_id, log_type, message, metadata)"
    " select id, log_seq + 1, account_id, 'state_transition', 'again', jsonb_build_object('from', 'executing', 'to',"
    " 'completed') from agent_runs",
    "Each move": """update agent_task_logs set metadata = '{"from": "paused", "to": "executing"}'"""
    " where metadata ->> 'from' = 'planning'",
    "seq counts": f"delete from agent_task_logs where seq = 2 and run_id = {A_RUN}",
    "No step was recorded twice": f"update agent_steps set key = 's1' where step_no = 2 and run_id = {A_RUN}",
    "What a step recorded": f"delete from agent_artifacts where run_id = {A_RUN}",
    "Nothing of an ended run": f"update agent_steps set status = 'running' where step_no = 1 and run_id = {A_RUN}",
    "No model output": f"insert into private.step_deltas values ({A_RUN}, 1, 1, 0, 'left')",
    "No lease": "update agent_runs set status = 'executing', finished_at = null, lease_id = gen_random_uuid(),"
    f" lease_owner = 'the dead', lease_expires_at = now(), held_for = 0, fair_tag = 1 where id = {A_RUN}",
    "Every place": "update private.slots set taken = 1",
    "No account created more": "update private.tiers set creates_per_minute = 1",
    "Every account's row": "update credit_accounts set available = available + 1",
    "No account and no run's hold": "insert into credit_ledger (account_id, kind, debit, credit, amount)"
    " select account_id, 'hold', 'available', 'held', available + 1 from credit_accounts",
    "Every run gave back": f"update agent_runs set credits_spent = credits_spent + 1 where id = {A_RUN}",
    "Every run that a person": f"delete from agent_runs where id = {A_RUN}",
    "Every run ended as planned": f"""update agent_runs set output = '{{"total": 1}}' where id = {A_RUN}""",
    "Every completed step": """update agent_steps set output = '{"value": 1}' where key = 's1'""",
    "Effectful steps": "update agent_steps set effect_key = gen_random_uuid() where effect = 'effectful'",
}


def test_one_seed_draws_one_load_and_a_plan_reads_back_from_its_json() -> None:
    first, second = (draw(random.Random(5)) for _ in range(2))  # noqa: S311 - spread, not secrecy

    assert first == second == RunPlan.from_json(first.to_json())


async def test_nothing_is_broken_where_all_is_well(at_rest: AtRest) -> None:
    assert at_rest.broken() == set()


async def test_every_kind_of_damage_is_found(at_rest: AtRest) -> None:
    found = {beginning: at_rest.broken(damage) for beginning, damage in DAMAGES.items()}

    assert [
        beginning
        for beginning, sentences in found.items()
        if not any(sentence.startswith(beginning) for sentence in sentences)
    ] == []


async def test_an_effect_that_happened_twice_and_an_answer_that_was_lost_are_found(at_rest: AtRest) -> None:
    at_rest.told.answered[uuid4()] = "yes"
    for calls in at_rest.outside.calls.values():
        calls.taken += 1

    assert at_rest.broken() == {
        "Effectful steps took effect once if completed, never twice, none unrecorded",
        "Every answer that was acknowledged is the result of its step",
    }
