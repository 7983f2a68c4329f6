"""agent-status shows a run with what it recorded, and a person's history, page by page."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.functions.visitor import EVERYTHING, PROMPT, Visitor
from tests.support.rest import configure_rest


async def test_a_run_is_shown_without_the_machinery_behind_it(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    response = await owner.get("agent-status", run_id=run_id)

    assert list(response.json()) == ["run"]
    run = response.json()["run"]
    assert list(run) == [
        "id", "account_id", "user_id", "status", "held", "revision", "engine", "agent", "input", "output", "error",
        "created_at", "started_at", "finished_at", "duration_ms", "deadline_at", "step_count", "max_steps",
        "timeout_seconds", "priority", "concurrency", "credits", "forked_from", "fork_step", "log_seq",
        "human_requests",
    ]  # fmt: skip
    assert (run["id"], run["status"], run["input"], run["human_requests"]) == (
        run_id,
        "created",
        {"prompt": PROMPT},
        [],
    )


async def test_get_and_post_answer_the_same(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    got = await owner.get("agent-status", run_id=run_id, include="steps,logs", limit="5")
    posted = await owner.post("agent-status", {"run_id": run_id, "include": ["steps", "logs"], "limit": 5})

    assert got.status_code == 200
    assert got.json() == posted.json()


async def test_every_list_shows_what_the_run_recorded(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.start(1)
    await worker.finish(1, EVERYTHING)

    shown = (await owner.get("agent-status", run_id=run_id, include="steps,messages,artifacts,logs,plan")).json()

    step = shown["steps"]["items"][0]
    assert (step["step_no"], step["status"], step["output"], step["credits_spent"]) == (1, "completed", {"step": 1}, 0)
    assert shown["messages"]["items"][0]["content"] == [{"type": "text", "text": "Done"}]
    assert shown["artifacts"]["items"][0]["content"] == "print('Hello')"
    assert shown["plan"]["items"][0]["phases"] == [{"id": "one"}]
    assert [line["seq"] for line in shown["logs"]["items"]] == list(range(1, shown["run"]["log_seq"] + 1))
    assert shown["steps"]["next_cursor"] is None


async def test_pages_of_a_list_join_to_the_whole(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two", "three", "four")
    whole = (await owner.get("agent-status", run_id=run_id, include="logs")).json()["logs"]["items"]

    first = (await owner.get("agent-status", run_id=run_id, include="logs", limit=3)).json()["logs"]
    second = (
        await owner.get("agent-status", run_id=run_id, include="logs", limit=200, cursor=first["next_cursor"])
    ).json()["logs"]

    assert len(first["items"]) == 3
    assert first["items"] + second["items"] == whole
    assert second["next_cursor"] is None


@pytest.fixture
def two_rows_at_most(database_url: str) -> None:
    """A project whose REST interface gives fewer rows than were asked for (its setting max-rows)."""
    configure_rest(database_url, db_max_rows="2")


@pytest.mark.usefixtures("two_rows_at_most")
async def test_pages_are_whole_where_the_database_cuts_answers_short(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two", "three", "four")

    first = (await owner.get("agent-status", run_id=run_id, include="logs", limit=3)).json()["logs"]
    rest = (await owner.get("agent-status", run_id=run_id, include="logs", cursor=first["next_cursor"])).json()["logs"]

    assert [line["seq"] for line in first["items"] + rest["items"]] == [1, 2, 3, 4, 5, 6]
    assert (len(first["items"]), rest["next_cursor"]) == (3, None)


@pytest.mark.usefixtures("two_rows_at_most")
async def test_no_question_is_missing_where_the_database_cuts_answers_short(owner: Visitor, held_run):
    for number in range(3):
        _, worker = await held_run()
        await worker.start(1)
        await worker.ask(1, f"Question {number}?")

    runs = (await owner.get("agent-status")).json()["runs"]

    assert [run["human_requests"][0]["prompt"] for run in runs] == ["Question 2?", "Question 1?", "Question 0?"]


async def test_a_queued_run_says_whether_it_is_held(owner: Visitor):
    concurrency = {"key": "crm", "limit": 1}
    first, second = [
        (await owner.create(autostart=True, priority=number, concurrency=concurrency))["run_id"] for number in (0, 7)
    ]

    shown = await owner.run(second)

    assert (shown["status"], shown["held"], shown["priority"]) == ("queued", True, 7)
    assert shown["concurrency"] == concurrency
    assert (await owner.run(first))["held"] is False
    await owner.act("stop", first)
    assert (await owner.run(second))["held"] is False


async def test_a_run_without_a_key_shows_none(owner: Visitor):
    shown = await owner.run((await owner.create())["run_id"])

    assert (shown["held"], shown["priority"], shown["concurrency"]) == (False, 0, None)


async def test_a_cursor_belongs_to_its_list_and_run(owner: Visitor, held_run):
    run_id, worker = await held_run()
    await worker.say("one", "two")
    other = (await owner.create())["run_id"]
    cursor = (await owner.get("agent-status", run_id=run_id, include="logs", limit=1)).json()["logs"]["next_cursor"]

    for query in ({"run_id": run_id, "include": "steps"}, {"run_id": other, "include": "logs"}, {}):
        response = await owner.get("agent-status", cursor=cursor, **query)
        assert (response.status_code, response.json()["message"]) == (
            400,
            "cursor: is not one that this list gave out",
        )


async def test_the_history_shows_open_questions_with_their_run(owner: Visitor, held_run):
    quiet = (await owner.create())["run_id"]
    asking, worker = await held_run()
    await worker.start(1)
    await worker.ask(1, "Which colour?")

    runs = (await owner.get("agent-status")).json()["runs"]

    prompts = {run["id"]: [question["prompt"] for question in run["human_requests"]] for run in runs}
    assert prompts == {asking: ["Which colour?"], quiet: []}


@pytest.mark.parametrize("include", [None, "steps,messages,artifacts,logs,plan"])
async def test_another_users_run_does_not_exist(owner: Visitor, stranger: Visitor, include: str | None):
    run_id = (await owner.create())["run_id"]
    query = {"run_id": run_id} if include is None else {"run_id": run_id, "include": include}

    response = await stranger.get("agent-status", **query)

    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_run_that_never_was_does_not_exist(owner: Visitor):
    assert (await owner.get("agent-status", run_id=uuid4())).status_code == 404
