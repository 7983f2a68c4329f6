"""Steps that wait for an event, and who delivers one: anybody, with the step's token or without."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from shared.runs.engine import Event, Outcome, StepContext, Waiting
from shared.runs.models import Step
from shared.webhooks.keys import Address, WebhookKeys
from tests.support.runs import Person, run_row, step_rows, until

KEYS = WebhookKeys(b"a key that only the tests know..")
AGENT = UUID("0b0c6a4e-8a3f-4f1e-9b7d-5d2f8a1c3e01")
PAYLOAD = {"status": "SUCCESS", "data": {"text": "Forty-two"}}


def address_of(run_id: UUID, step_no: int = 1, *, agent_id: UUID = AGENT) -> Address:
    return Address(agent_id, run_id, step_no)


def waiting(run_id: UUID, step_no: int = 1, *, seconds: float | None = None) -> Waiting:
    return Waiting(Event(KEYS.token_hash(address_of(run_id, step_no)), seconds))


async def await_event(step: Step, ctx: StepContext) -> Outcome:
    """Perform a step by waiting for its event, for as long as the step may take."""
    return waiting(ctx.run.id, step.step_no)


async def deliver(
    person: Person,
    run_id: UUID,
    step_no: int = 1,
    *,
    token: str | None = None,
    event_id: str = "event-1",
    payload: object = PAYLOAD,
    delivery_id: str | None = None,
) -> dict[str, Any]:
    """Deliver as the webhook function does, which is nobody's user."""
    (row,) = await person.query(
        "select public.deliver_event(%s, %s, %s, %s, %s, %s)",
        run_id,
        step_no,
        KEYS.token(address_of(run_id, step_no)) if token is None else token,
        event_id,
        json.dumps(payload),
        delivery_id,
        role="anon",
    )
    return row[0]


async def until_waiting(url: str, run_id: UUID, step_no: int = 1) -> None:
    """Until the step's wait is recorded and no worker holds the run."""

    async def waits() -> bool:
        steps = [step for step in await step_rows(url, run_id) if step["step_no"] == step_no]
        return bool(steps) and steps[0]["waits_for"] == "event" and (await run_row(url, run_id))["lease_id"] is None

    await until(waits)
