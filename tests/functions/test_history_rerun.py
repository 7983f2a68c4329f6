"""A re-run does the same again, as a run of its own, and only where its caller may still do that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import uuid4

import pytest

from shared.runs.status import RunStatus
from tests.functions.history import agent_of, ended_run, member, version_of
from tests.functions.visitor import PROMPT, Visitor
from tests.support.runs import connect, run_row, step_rows
from tests.support.stack import Stack


@dataclass(frozen=True)
class Someone:
    """Somebody with an account of his own."""

    visitor: Visitor
    user_id: str


@pytest.fixture
def someone(stack: Stack, visitor: Callable[[str], Visitor]):
    async def sign_up() -> Someone:
        person = await stack.sign_up()
        return Someone(visitor(person.access_token), person.user_id)

    return sign_up


async def grant(url: str, agent_id: str, account_id: str, *, expires_at: str | None = None) -> None:
    async with connect(url) as connection:
        await connection.execute(
            "insert into public.agent_access (agent_id, account_id, kind, expires_at) values (%s, %s, 'granted', %s)",
            [agent_id, account_id, expires_at],
        )


async def run_of_agent(url: str, account_id: str, agent_id: str) -> str:
    version_id = await version_of(url, agent_id)
    return await ended_run(url, account_id, agent_id=agent_id, agent_version_id=version_id, input={"x": 1})


async def test_it_is_a_new_run_with_the_same_input_and_options(stack: Stack, owner: Visitor, held_run):
    options = {
        "max_steps": 7, "timeout_seconds": 70, "max_credits": 0.5, "priority": 3,
        "concurrency": {"key": "crm", "limit": 2}, "autostart": True,
    }  # fmt: skip
    run_id = (await owner.create(**options))["run_id"]
    await owner.act("stop", run_id)

    response = await owner.act("rerun", run_id)

    assert response.status_code == 201
    answer = response.json()
    assert (answer["status"], answer["created"], answer["forked_from"]) == ("queued", True, run_id)
    old, new = await owner.run(run_id), await owner.run(answer["run_id"])
    same = ("account_id", "user_id", "engine", "input", "max_steps", "timeout_seconds", "priority", "concurrency")
    assert {name: new[name] for name in same} == {name: old[name] for name in same}
    assert new["credits"]["max"] == 0.5
    assert (new["forked_from"], new["fork_step"], new["output"], new["step_count"]) == (run_id, None, None, 0)


async def test_nothing_that_was_recorded_is_taken_over(stack: Stack, owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.start(1)
    await worker.finish(1)
    await worker.end(RunStatus.COMPLETED)
    (step,) = await step_rows(stack.database_url, run_id)

    again = (await owner.act("rerun", run_id)).json()["run_id"]

    assert step["status"] == "completed"
    assert await step_rows(stack.database_url, again) == []
    assert (await owner.run(run_id))["status"] == "completed"


async def test_it_can_be_made_without_being_started(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    answer = (await owner.act("rerun", run_id, autostart=False)).json()

    assert (answer["status"], (await owner.run(answer["run_id"]))["input"]) == ("created", {"prompt": PROMPT})


async def test_a_repeat_with_the_same_key_is_the_same_run(owner: Visitor):
    run_id, other = [(await owner.create())["run_id"] for _ in range(2)]
    headers = {"Idempotency-Key": "again"}

    first = await owner.post("agent-execute", {"action": "rerun", "run_id": run_id}, headers=headers)
    second = await owner.post("agent-execute", {"action": "rerun", "run_id": run_id}, headers=headers)
    third = await owner.post("agent-execute", {"action": "rerun", "run_id": other}, headers=headers)

    assert (first.status_code, second.status_code, third.status_code) == (201, 200, 409)
    assert second.json()["run_id"] == first.json()["run_id"]
    assert third.json()["code"] == "idempotency_conflict"


@pytest.mark.parametrize("run_id", ["theirs", "no run's"])
async def test_another_persons_run_does_not_exist(owner: Visitor, stranger: Visitor, run_id: str):
    theirs = (await owner.create())["run_id"]

    response = await stranger.act("rerun", theirs if run_id == "theirs" else str(uuid4()))

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_viewer_may_not_and_a_member_may_run_again_what_another_ran(stack: Stack, someone):
    ada, viewer, colleague = await someone(), await someone(), await someone()
    await member(stack.database_url, viewer.user_id, ada.user_id, "viewer")
    await member(stack.database_url, colleague.user_id, ada.user_id, "member")
    run_id = await ended_run(stack.database_url, ada.user_id, engine="agent", input={"prompt": "x"})

    refused = await viewer.visitor.act("rerun", run_id)
    made = await colleague.visitor.act("rerun", run_id)

    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert made.status_code == 201
    row = await run_row(stack.database_url, made.json()["run_id"])
    assert (row["account_id"], row["user_id"]) == (ada.user_id, colleague.user_id)


async def test_it_pins_the_version_that_ran_though_there_is_a_newer_one(stack: Stack, someone):
    ada = await someone()
    agent_id = await agent_of(stack.database_url, ada.user_id)
    run_id = await run_of_agent(stack.database_url, ada.user_id, agent_id)
    async with connect(stack.database_url) as connection:
        await connection.execute(
            "with v as (insert into public.agent_versions (agent_id, number, engine, published_at)"
            " values (%s, 2, 'list', now()) returning id)"
            " update public.agents set current_version_id = (select id from v) where id = %s",
            [agent_id, agent_id],
        )

    again = (await ada.visitor.act("rerun", run_id)).json()["run_id"]

    assert (await ada.visitor.run(again))["agent"]["version"] == 1
    assert (await ada.visitor.run(again))["input"] == {"x": 1}


async def test_a_retired_agent_is_not_run_again(stack: Stack, someone):
    ada = await someone()
    agent_id = await agent_of(stack.database_url, ada.user_id)
    run_id = await run_of_agent(stack.database_url, ada.user_id, agent_id)
    async with connect(stack.database_url) as connection:
        await connection.execute("update public.agents set status = 'retired' where id = %s", [agent_id])

    response = await ada.visitor.act("rerun", run_id)

    assert response.status_code == 409
    assert "retired" in response.json()["message"]


async def test_access_to_the_agent_is_looked_at_again(stack: Stack, someone):
    seller, buyer = await someone(), await someone()
    agent_id = await agent_of(stack.database_url, seller.user_id)
    run_id = await run_of_agent(stack.database_url, buyer.user_id, agent_id)

    without = await buyer.visitor.act("rerun", run_id)
    await grant(stack.database_url, agent_id, buyer.user_id)
    granted = await buyer.visitor.act("rerun", run_id)
    async with connect(stack.database_url) as connection:
        await connection.execute("update public.agent_access set expires_at = now() - interval '1 s'")
    expired = await buyer.visitor.act("rerun", run_id)

    assert (without.status_code, granted.status_code, expired.status_code) == (404, 201, 404)


async def test_the_price_of_the_agent_is_paid_again(stack: Stack, someone):
    seller, buyer = await someone(), await someone()
    agent_id = await agent_of(stack.database_url, seller.user_id)
    async with connect(stack.database_url) as connection:
        await connection.execute("alter table public.agent_versions disable trigger frozen")
        await connection.execute("update public.agent_versions set price = 250000")
    await grant(stack.database_url, agent_id, buyer.user_id)
    run_id = await run_of_agent(stack.database_url, buyer.user_id, agent_id)

    again = (await buyer.visitor.act("rerun", run_id)).json()["run_id"]

    assert (await buyer.visitor.run(again))["credits"]["spent"] == 0.25


async def test_a_draft_that_an_admin_tried_is_not_run_again_by_a_member(stack: Stack, someone):
    ada, colleague = await someone(), await someone()
    await member(stack.database_url, colleague.user_id, ada.user_id, "member")
    agent_id = await agent_of(stack.database_url, ada.user_id)
    async with connect(stack.database_url) as connection:
        statement = (
            "insert into public.agent_versions (agent_id, number, engine, pinned_at)"
            " values (%s, 2, 'list', now()) returning id::text"
        )
        (draft_id,) = await (await connection.execute(statement, [agent_id])).fetchone() or ()
    run_id = await ended_run(stack.database_url, ada.user_id, agent_id=agent_id, agent_version_id=draft_id)

    assert (await colleague.visitor.act("rerun", run_id)).status_code == 403
    assert (await ada.visitor.act("rerun", run_id)).status_code == 201


async def credential(url: str, account_id: str) -> str:
    """A credential that a run can name; nothing here opens it."""
    async with connect(url) as connection:
        cursor = await connection.execute(
            "insert into public.credentials (id, account_id, user_id, provider, name, sealed, ticket_hash, fingerprint,"
            " key_version, last_four)"
            " values (gen_random_uuid(), %s, %s, 'openai', 'key', %s, 'hash', 'print', 1, 'abcd') returning id::text",
            [account_id, account_id, "x" * 200],
        )
        (credential_id,) = await cursor.fetchone() or ()
    return credential_id


async def delete(url: str, credential_id: str) -> None:
    async with connect(url) as connection:
        await connection.execute(
            "update public.credentials set deleted_at = now(), sealed = null, ticket_hash = null, fingerprint = null"
            " where id = %s",
            [credential_id],
        )


async def needs(url: str, agent_id: str, provider: str) -> None:
    async with connect(url) as connection:
        await connection.execute("alter table public.agent_versions disable trigger frozen")
        await connection.execute(
            "update public.agent_versions set credential_types = array[%s] where agent_id = %s", [provider, agent_id]
        )


async def test_the_same_credential_is_used_while_it_is_there_and_then_the_newest(stack: Stack, someone):
    url, ada = stack.database_url, await someone()
    agent_id = await agent_of(url, ada.user_id)
    await needs(url, agent_id, "openai")
    version_id = await version_of(url, agent_id)
    old, new = await credential(url, ada.user_id), await credential(url, ada.user_id)
    run_id = await ended_run(
        url, ada.user_id, agent_id=agent_id, agent_version_id=version_id, credential_ids={"openai": old}
    )

    first = (await ada.visitor.act("rerun", run_id)).json()["run_id"]
    await delete(url, old)
    second = (await ada.visitor.act("rerun", run_id)).json()["run_id"]
    await delete(url, new)
    third = await ada.visitor.act("rerun", run_id)

    assert (await run_row(url, first))["credential_ids"] == {"openai": old}
    assert (await run_row(url, second))["credential_ids"] == {"openai": new}
    assert (third.status_code, third.json()["message"]) == (
        400,
        "credentials.openai: is needed: add a credential for openai",
    )


async def test_a_prompts_credential_that_is_gone_is_replaced_or_asked_for(stack: Stack, someone):
    url, ada = stack.database_url, await someone()
    run_id = await ended_run(url, ada.user_id, engine="agent", credential_ids={"openai": str(uuid4())})

    refused = await ada.visitor.act("rerun", run_id)
    new = await credential(url, ada.user_id)
    made = await ada.visitor.act("rerun", run_id)

    assert refused.status_code == 400
    assert (await run_row(url, made.json()["run_id"]))["credential_ids"] == {"openai": new}
