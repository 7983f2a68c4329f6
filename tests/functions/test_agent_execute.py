"""agent-execute moves runs through their life, and says what is when it cannot."""

from __future__ import annotations

from uuid import uuid4

import pytest
from supabase import FunctionsHttpError

from shared.runs.status import RunStatus
from tests.functions.visitor import PROMPT, Visitor
from tests.support.stack import Stack


async def test_create_makes_a_run_that_waits_for_its_start(owner: Visitor):
    response = await owner.post("agent-execute", {"action": "create", "prompt": PROMPT})

    assert response.status_code == 201
    answer = response.json()
    assert answer == {"run_id": answer["run_id"], "status": "created", "revision": 1, "created": True}
    run = await owner.run(answer["run_id"])
    assert (run["engine"], run["input"]) == ("agent", {"prompt": PROMPT})


async def test_create_with_autostart_starts_in_the_same_call(owner: Visitor):
    assert (await owner.create(autostart=True))["status"] == "queued"


async def test_options_become_the_runs_limits_with_credits_in_credits(owner: Visitor):
    run_id = (await owner.create(max_steps=7, timeout_seconds=60, max_credits=0.3))["run_id"]

    run = await owner.run(run_id)
    assert (run["max_steps"], run["timeout_seconds"], run["credits"]["max"]) == (7, 60, 0.3)


async def test_priority_and_concurrency_become_the_runs(owner: Visitor):
    run_id = (await owner.create(priority=-3, concurrency={"key": "crm"}))["run_id"]

    run = await owner.run(run_id)
    assert (run["priority"], run["concurrency"]) == (-3, {"key": "crm", "limit": 1})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"priority": 101}, "options.priority"),
        ({"priority": 0.5}, "options.priority"),
        ({"concurrency": {"limit": 2}}, "options.concurrency.key"),
        ({"concurrency": {"key": ""}}, "options.concurrency.key"),
        ({"concurrency": {"key": "crm", "limit": 0}}, "options.concurrency.limit"),
        ({"concurrency": {"key": "crm", "places": 1}}, "options.concurrency.places"),
    ],
)
async def test_a_wrong_place_in_the_queue_is_refused_by_name(owner: Visitor, options: dict[str, object], field: str):
    response = await owner.post("agent-execute", {"action": "create", "prompt": PROMPT, "options": options})

    assert (response.status_code, response.json()["code"]) == (400, "invalid_input")
    assert response.json()["message"].startswith(f"{field}: ")


async def test_start_takes_a_hold_of_credits_and_a_deadline(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    response = await owner.act("start", run_id)

    assert (response.status_code, response.json()["status"]) == (200, "queued")
    run = await owner.run(run_id)
    assert run["credits"] == {"held": 1.0, "reserved": 0.0, "spent": 0.0, "max": None}
    assert run["deadline_at"] is not None


async def test_starting_twice_is_a_conflict_that_says_what_is(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]

    response = await owner.act("start", run_id)

    assert response.status_code == 409
    assert response.json() == {
        "code": "invalid_transition",
        "message": f"Run {run_id} is already started: it is queued",
        "details": None,
        "hint": None,
        "retryable": False,
    }


async def test_stopping_an_unheld_run_ends_it_at_once(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]

    response = await owner.act("stop", run_id)

    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    assert "stopping" not in response.json()


async def test_stopping_a_held_run_is_accepted_and_left_to_its_holder(owner: Visitor, held_run):
    run_id, _worker = await held_run()

    response = await owner.act("stop", run_id)

    assert response.status_code == 202
    assert response.json()["stopping"] is True
    assert response.json()["status"] == "planning"


async def test_pausing_a_held_run_is_accepted_and_left_to_its_holder(owner: Visitor, held_run):
    run_id, _worker = await held_run()

    response = await owner.act("pause", run_id)

    assert (response.status_code, response.json()["pausing"]) == (202, True)


async def test_stopping_a_finished_run_is_a_conflict_that_says_what_is(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.start(1)
    await worker.finish(1)
    await worker.end()

    response = await owner.act("stop", run_id)

    assert response.status_code == 409
    assert (response.json()["code"], response.json()["message"]) == (
        "run_finished",
        f"Run {run_id} has ended as completed",
    )


async def test_pause_and_resume_return_a_run_to_the_queue(owner: Visitor):
    run_id = (await owner.create(autostart=True))["run_id"]

    assert (await owner.act("pause", run_id)).json()["status"] == "paused"
    assert (await owner.act("resume", run_id)).json()["status"] == "queued"


@pytest.mark.parametrize("action", ["start", "stop", "pause", "resume"])
async def test_a_stale_revision_changes_nothing(owner: Visitor, action: str):
    created = await owner.create()

    response = await owner.act(action, created["run_id"], revision=created["revision"] + 1)

    assert response.status_code == 409
    assert response.json()["code"] == "stale_revision"
    assert response.json()["details"] == '{"status": "created", "revision": 1}'
    assert (await owner.run(created["run_id"]))["revision"] == created["revision"]


async def test_the_revision_that_was_read_is_accepted(owner: Visitor):
    created = await owner.create()

    assert (await owner.act("start", created["run_id"], revision=created["revision"])).status_code == 200


async def test_an_idempotency_key_makes_one_run_of_two_requests(owner: Visitor):
    body, headers = {"action": "create", "prompt": PROMPT}, {"Idempotency-Key": "once"}

    first = await owner.post("agent-execute", body, headers=headers)
    second = await owner.post("agent-execute", body, headers=headers)

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == {**first.json(), "created": False}


async def test_an_idempotency_key_with_another_request_is_a_conflict(owner: Visitor):
    headers = {"Idempotency-Key": "once"}
    await owner.post("agent-execute", {"action": "create", "prompt": "one"}, headers=headers)

    response = await owner.post("agent-execute", {"action": "create", "prompt": "two"}, headers=headers)

    assert (response.status_code, response.json()["code"]) == (409, "idempotency_conflict")


async def test_an_idempotency_key_of_another_user_is_another_key(owner: Visitor, stranger: Visitor):
    body, headers = {"action": "create", "prompt": PROMPT}, {"Idempotency-Key": "once"}
    first = await owner.post("agent-execute", body, headers=headers)

    second = await stranger.post("agent-execute", body, headers=headers)

    assert second.status_code == 201
    assert second.json()["run_id"] != first.json()["run_id"]


@pytest.mark.parametrize("key", ["", "x" * 201])
async def test_an_idempotency_key_out_of_bounds_is_refused_by_name(owner: Visitor, key: str):
    response = await owner.post(
        "agent-execute", {"action": "create", "prompt": PROMPT}, headers={"Idempotency-Key": key}
    )

    assert response.status_code == 400
    assert response.json()["message"].startswith("Idempotency-Key: ")


async def test_retry_makes_a_new_run_of_a_failed_one(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.start(1)
    await worker.finish(1)
    await worker.end(RunStatus.FAILED)

    response = await owner.act("retry", run_id)

    assert response.status_code == 201
    assert response.json()["forked_from"] == run_id
    assert response.json()["run_id"] != run_id
    assert response.json()["status"] == "queued"


async def test_respond_answers_the_open_question_and_wakes_the_run(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.start(1)
    await worker.ask(1, "Which colour?")
    (question,) = (await owner.run(run_id))["human_requests"]

    response = await owner.act("respond", run_id, response="blue")

    assert question["prompt"] == "Which colour?"
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["request_id"]) == ("queued", question["id"])


async def test_responding_where_nothing_is_asked_is_not_found(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    response = await owner.act("respond", run_id, response="blue")

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_an_agent_that_does_not_exist_is_not_found(owner: Visitor):
    agent_id = str(uuid4())

    response = await owner.post("agent-execute", {"action": "create", "agent_id": agent_id})

    assert response.status_code == 404
    assert response.json()["message"] == f"There is no agent {agent_id}"


@pytest.mark.parametrize("action", ["start", "stop", "pause", "resume", "retry"])
async def test_another_users_run_does_not_exist(owner: Visitor, stranger: Visitor, action: str):
    run_id = (await owner.create())["run_id"]

    response = await stranger.act(action, run_id)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert (await owner.run(run_id))["status"] == "created"


async def test_creating_in_an_account_of_others_is_forbidden(owner: Visitor, stranger: Visitor):
    run_id = (await owner.create())["run_id"]
    account_id = (await owner.run(run_id))["account_id"]

    response = await stranger.post("agent-execute", {"action": "create", "prompt": PROMPT, "account_id": account_id})

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_the_official_client_invokes_it(stack: Stack):
    person = await stack.sign_up()
    body = {"action": "create", "prompt": PROMPT, "options": {"autostart": True}}

    answer = await person.client.functions.invoke(
        "agent-execute", {"body": body, "headers": {"Idempotency-Key": "once"}, "responseType": "json"}
    )

    assert answer["status"] == "queued"


async def test_the_official_client_gets_the_status_of_an_error(stack: Stack):
    person = await stack.sign_up()

    with pytest.raises(FunctionsHttpError) as refusal:
        await person.client.functions.invoke("agent-execute", {"body": {"action": "launch"}})

    assert refusal.value.status == 400
