"""States and questions that the tests of people share."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from shared.runs.engine import HumanRequest
from shared.runs.models import NewArtifact, NewMessage, NewPlan, Records
from shared.runs.status import RunStatus, StepStatus
from shared.runs.store import RunStore
from shared.runs.transitions import Advance, FinishStep, StartStep
from tests.runs.engines import steps
from tests.support.runs import (
    Person,
    claim,
)


async def refused(call: Any) -> str:
    """The SQLSTATE with which a call is refused."""
    with pytest.raises(psycopg.Error) as caught:
        await call
    assert caught.value.sqlstate is not None
    return caught.value.sqlstate


async def waiting_run(store: RunStore, person: Person, *, options: tuple[str, ...] = ()) -> UUID:
    """A run that asked its person a question in step 1 and let go of its worker."""
    run_id = await person.queue()
    view = next(view for view in (await claim(store)).views if view.run.id == run_id)
    assert view.run.lease_id is not None
    start = StartStep(1, uuid4(), steps(1)[0])
    first = Advance(run_id, view.run.lease_id, view.run.revision, start=(start,), status=RunStatus.EXECUTING)
    started = (await store.advance([first], lease_seconds=15))[run_id]
    asks = FinishStep(1, 1, StepStatus.RUNNING, waits_for="human", request=HumanRequest("Which tea?", options=options))
    wait = Advance(run_id, view.run.lease_id, started.revision, finish=(asks,), status=RunStatus.AWAITING_INPUT)
    await store.advance([wait], lease_seconds=15)
    return run_id


async def may(call: Any) -> bool:
    try:
        await call
    except psycopg.Error as error:
        if error.sqlstate != "RUN06":
            raise
        return False
    return True


async def furnished_run(store: RunStore, person: Person) -> None:
    run_id = await waiting_run(store, person)
    await person.call("respond_run", run_id, json.dumps("x"))
    view = (await claim(store)).views[0]
    assert view.run.lease_id is not None
    start = Advance(run_id, view.run.lease_id, view.run.revision, start=(StartStep(2, uuid4(), steps(2)[1]),))
    revision = (await store.advance([start], lease_seconds=15))[run_id].revision
    records = Records(
        messages=(NewMessage("assistant", []),), artifacts=(NewArtifact("a", "b"),), plans=(NewPlan("goal", []),)
    )
    done = FinishStep(2, 1, StepStatus.COMPLETED, output={}, records=records)
    await store.advance([Advance(run_id, view.run.lease_id, revision, finish=(done,))], lease_seconds=15)
