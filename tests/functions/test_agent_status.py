"""agent-status shows a run with what it recorded, and a person's history, page by page."""

from __future__ import annotations

from uuid import uuid4

import pytest

from tests.functions.visitor import EVERYTHING, PROMPT, Visitor


async def test_a_run_is_shown_without_the_machinery_behind_it(owner: Visitor):
    run_id = (await owner.create())["run_id"]

    response = await owner.get("agent-status", run_id=run_id)

    assert list(response.json()) == ["run"]
    run = response.json()["run"]
    assert list(run) == [
        "id", "account_id", "user_id", "status", "revision", "engine", "input", "output", "error", "created_at",
        "started_at", "finished_at", "deadline_at", "step_count", "max_steps", "timeout_seconds", "credits",
        "forked_from", "fork_step", "log_seq", "human_requests",
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


async def test_the_history_is_newest_first_and_its_pages_join(owner: Visitor):
    ids = [(await owner.create())["run_id"] for _ in range(5)]

    first = (await owner.get("agent-status", limit=2)).json()
    second = (await owner.get("agent-status", limit=2, cursor=first["next_cursor"])).json()
    third = (await owner.post("agent-status", {"limit": 2, "cursor": second["next_cursor"]})).json()

    shown = [run["id"] for page in (first, second, third) for run in page["runs"]]
    assert shown == ids[::-1]
    assert third["next_cursor"] is None


async def test_the_history_is_filtered(owner: Visitor):
    early, late = await owner.create(), await owner.create(autostart=True)
    created_at = (await owner.run(late["run_id"]))["created_at"]

    async def ids(**query: object) -> list[str]:
        response = await owner.get("agent-status", **query)
        assert response.status_code == 200, response.text
        return [run["id"] for run in response.json()["runs"]]

    assert await ids(status="queued") == [late["run_id"]]
    assert await ids(status="queued,created") == [late["run_id"], early["run_id"]]
    assert await ids(engine="flowise") == []
    assert await ids(created_before=created_at) == [early["run_id"]]
    assert await ids(created_after="2020-01-01T00:00:00+02:00", engine="agent") == [late["run_id"], early["run_id"]]


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


async def test_another_accounts_history_is_empty(owner: Visitor, stranger: Visitor):
    run_id = (await owner.create())["run_id"]
    account_id = (await owner.run(run_id))["account_id"]

    assert (await stranger.get("agent-status", account_id=account_id)).json() == {"runs": [], "next_cursor": None}
