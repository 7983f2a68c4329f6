"""What a claim sees to besides handing out runs: each by itself, when there is nothing else to do."""

from __future__ import annotations

from uuid import uuid4

import pytest

from shared.runs.engine import HumanRequest
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import FinishStep, StartStep
from tests.runs.engines import steps
from tests.runs.queueing import fetch, take
from tests.support.clock import shift_clock
from tests.support.runs import Person, claim, connect, run_row


async def pass_by(url: str, seconds: float) -> None:
    async with connect(url) as connection:
        await shift_clock(connection, seconds=seconds)


@pytest.mark.parametrize("waits_for", ["worker", "person", "lost worker"])
async def test_a_run_over_its_deadline_is_ended_whatever_it_alone_waits_for(
    store: RunStore, person: Person, database_url: str, waits_for: str
) -> None:
    run_id = await person.queue(timeout_seconds=60)
    if waits_for != "worker":
        held = (await take(store))[run_id]
        if waits_for == "person":
            await held.advance(start=(StartStep(1, uuid4(), steps(1)[0]),), status=RunStatus.EXECUTING)
            asked = FinishStep(1, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest("Which?"))
            await held.advance(finish=(asked,), status=RunStatus.AWAITING_INPUT)
    await pass_by(database_url, 61)

    swept = (await claim(store)).swept

    assert (swept, (await run_row(database_url, run_id))["status"]) == (1, "timeout")


async def test_a_claim_purges_what_is_old_though_nothing_is_queued(
    store: RunStore, person: Person, database_url: str
) -> None:
    await person.create(key="k")
    await claim(store)
    await pass_by(database_url, 8 * 86400)

    assert (await claim(store)).views == ()

    assert await fetch(database_url, "select from private.idempotency_keys") == []


async def test_a_claim_that_hands_out_nothing_says_when_the_next_timer_is_due(
    store: RunStore, person: Person, database_url: str
) -> None:
    run_id = await person.queue()
    await (await take(store))[run_id].advance(status=RunStatus.QUEUED, available_in=60)
    early = await claim(store)
    await pass_by(database_url, 61)

    due = await claim(store)

    assert early.views == ()
    assert early.next_in_seconds is not None
    assert 0 < early.next_in_seconds <= 60
    assert [view.run.id for view in due.views] == [run_id]
    assert due.next_in_seconds is None
